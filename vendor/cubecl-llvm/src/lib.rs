//! In place of CubeCL's LLVM compiler: the names that cubecl-cuda 0.11.3 knows it by, without LLVM.
//!
//! cubecl-cuda always links two compilers of kernels and runs one of them. CUDA C++ through NVIDIA's own run-time compiler is the
//! one that its feature `cpp` chooses, and the one that Swath runs. The other, this one, makes the building machine download 23.1 of
//! LLVM from GitHub, or fail where GitHub cannot be reached; distributions do not have it. `[patch.crates-io]` in the workspace's
//! `Cargo.toml` puts this crate there, so that crates are all that a build needs.
//!
//! Nothing here pretends to compile: what the real crate would return cannot be made, which types say, and asked all the same
//! (cubecl-cuda without `cpp`) it answers with an error. It goes when cubecl-cuda can be built without LLVM. Names and shapes are
//! those of cubecl-llvm 0.11.3 (MIT or Apache-2.0, Tracel Technologies and contributors).

use std::convert::Infallible;
use std::ffi::c_char;

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::compiler::CompilationError;
use cubecl_runtime::kernel::BufferIOAttr;

/// What is left of PTX.
pub mod nvptx {
    /// The version of PTX that a driver loads.
    pub mod ptx_version {
        use std::fmt;

        /// A version that LLVM emits: there is none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// What LLVM would emit for a driver: nothing. NVIDIA's compiler knows by itself.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

/// What is left of the parts that targets share.
pub mod shared {
    /// What a device advertises.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// A target that features are narrowed for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Narrows nothing: what follows for this compiler is an error in any case.
        pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

/// What is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LlvmTarget {
    /// NVIDIA's GPUs.
    Nvptx,
}

/// Settings of a compilation.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// Of AMD's GPUs.
    pub arch: Option<Infallible>,
    /// Of NVIDIA's GPUs.
    pub sm_arch: Option<SmArch>,
    /// The PTX to emit.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether scalars travel in the kernel's parameters.
    pub grid_constants: bool,
}

/// A compiled module, which there never is.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// Its text.
    pub ptx: Vec<c_char>,
    /// Its intermediate form.
    pub ir: String,
    /// Shared memory of a launch, in bytes.
    pub shared_memory_size: usize,
    /// How each buffer is used.
    pub io: Vec<BufferIOAttr>,
    /// Why there never is one.
    pub never: Infallible,
}

/// What a compilation makes.
pub enum PlironArtifact {
    /// For NVIDIA's GPUs.
    NvptxCode(NvptxModule),
}

/// The compiler that is not there.
#[derive(Clone, Debug)]
pub struct PlironCompiler {
    /// What it would compile for.
    pub target: LlvmTarget,
}

impl PlironCompiler {
    /// Says that there is no LLVM.
    pub fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "this program was built without LLVM: build cubecl-cuda with its feature `cpp`".to_owned(),
            backtrace: BackTrace::capture(),
        })
    }

    /// The language it would emit.
    pub fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
