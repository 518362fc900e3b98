//! A GPU to compute on, where this program was built for one (the feature `cuda`) and the machine has all that it needs. It is
//! asked for before anything is computed: what is missing would otherwise end the first kernel in a panic.

use burn::tensor::Device;

/// Why a GPU cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGpu {
    /// The feature `cuda` is not there.
    #[error("this program was built without CUDA")]
    NotBuilt,
    /// No driver.
    #[error("there is no NVIDIA driver: `libcuda.so.1` is not found")]
    NoDriver,
    /// A driver that cannot be used.
    #[error("NVIDIA's driver answers {0}")]
    Refused(String),
    /// A driver without GPUs.
    #[error("NVIDIA's driver sees no GPU")]
    NoDevice,
    /// A number beyond the last.
    #[error("the last GPU here is `cuda:{last}`")]
    Beyond {
        /// The number of the last.
        last: u32,
    },
    /// No compiler of kernels.
    #[error("NVIDIA's run-time compiler is missing: `libnvrtc.so` is not found")]
    NoCompiler,
    /// No headers for it.
    #[error("CUDA's headers are missing: there is no `{0}`")]
    NoHeaders(String),
}

impl NoGpu {
    /// The likely way out.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotBuilt => "build it with `cargo build --release -p swath --features cuda`, or take `device: cpu`",
            Self::NoDriver | Self::Refused(_) | Self::NoDevice | Self::Beyond { .. } => {
                "look at what `nvidia-smi` shows; in a container pass the GPU on (`--gpus all`); or take `device: cpu`"
            }
            Self::NoCompiler | Self::NoHeaders(_) => {
                "install CUDA's toolkit, or PyPI's nvidia-cuda-nvrtc, nvidia-cuda-runtime and nvidia-cuda-cccl, and let CUDA_PATH \
                 name their folder and LD_LIBRARY_PATH its libraries; or take `device: cpu`"
            }
        }
    }
}

/// The GPU of this number, of those that the process sees.
///
/// # Errors
/// What is missing.
#[cfg(not(feature = "cuda"))]
pub fn gpu(_index: u32) -> Result<Device, NoGpu> {
    Err(NoGpu::NotBuilt)
}

/// The GPU of this number, of those that the process sees.
///
/// # Errors
/// What is missing.
#[cfg(feature = "cuda")]
pub fn gpu(index: u32) -> Result<Device, NoGpu> {
    use cubecl::cuda::install::cuda_path;

    cuda::check_driver(index)?;
    cuda::check_compiler(cuda_path().as_deref(), cuda::has_compiler())?;
    Ok(Device::cuda(index as usize))
}

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "FFI edge: whether two shared libraries are there")]
mod cuda {
    use std::path::Path;

    use cudarc::driver::result;

    use super::NoGpu;

    /// A header that most kernels of half precision include.
    const HEADER: &str = "include/cuda_fp16.h";

    /// Whether the driver has a GPU of this number.
    pub fn check_driver(index: u32) -> Result<(), NoGpu> {
        use cudarc::driver::sys::cudaError_enum::CUDA_ERROR_NO_DEVICE;

        // SAFETY: opens libraries by name and closes them.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(NoGpu::NoDriver);
        }
        let count = result::init().and_then(|()| result::device::get_count());
        match count.map(|count| u32::try_from(count).unwrap_or(0)) {
            Ok(0) => Err(NoGpu::NoDevice),
            Ok(count) if index < count => Ok(()),
            Ok(count) => Err(NoGpu::Beyond { last: count - 1 }),
            Err(error) if error.0 == CUDA_ERROR_NO_DEVICE => Err(NoGpu::NoDevice),
            Err(error) => Err(NoGpu::Refused(format!("{:?}", error.0))),
        }
    }

    /// Whether kernels can be compiled with CUDA's files in this folder.
    pub fn check_compiler(root: Option<&Path>, library: bool) -> Result<(), NoGpu> {
        if !library {
            return Err(NoGpu::NoCompiler);
        }
        // Where cubecl looks when nothing names a folder.
        let header = root.unwrap_or(Path::new("/usr/local/cuda")).join(HEADER);
        if header.is_file() { Ok(()) } else { Err(NoGpu::NoHeaders(header.display().to_string())) }
    }

    pub fn has_compiler() -> bool {
        // SAFETY: opens libraries by name and closes them.
        unsafe { cudarc::nvrtc::sys::is_culib_present() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_cannot_be_had_is_told_with_what_is_missing() {
        let reason = gpu(77).expect_err("no machine has so many");
        if cfg!(feature = "cuda") {
            assert_ne!(reason, NoGpu::NotBuilt);
        } else {
            assert_eq!(reason, NoGpu::NotBuilt);
        }
        assert!(reason.help().contains("`device: cpu`"), "{reason}: {}", reason.help());
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_compiler_of_kernels_is_its_library_and_its_headers() {
        let folder = tempfile::tempdir().expect("a folder");
        let check = |library| cuda::check_compiler(Some(folder.path()), library);
        assert_eq!(check(false), Err(NoGpu::NoCompiler));
        let header = folder.path().join("include/cuda_fp16.h");
        assert_eq!(check(true), Err(NoGpu::NoHeaders(header.display().to_string())));
        std::fs::create_dir(folder.path().join("include")).expect("a folder");
        std::fs::write(header, "").expect("a file");
        assert_eq!(check(true), Ok(()));
    }
}
