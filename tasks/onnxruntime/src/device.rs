//! What a session computes on: the CPU, or a GPU where ONNX Runtime was built for it.

use std::fmt;
use std::str::FromStr;

use ort::ep::{CUDA, ExecutionProvider, ExecutionProviderDispatch, TensorRT};
use swath_task::Fault;

use crate::library::{environment, locate_onnx_runtime};

/// What a session computes on. GPUs are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    Cpu,
    /// A GPU, by CUDA.
    Cuda(u32),
    /// A GPU, by TensorRT, and by CUDA what that does not take. It builds its engine when a session is opened, which takes
    /// minutes.
    TensorRt(u32),
}

/// Why a text is no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device is `cpu`, `cuda:N` or `tensorrt:N`, N a GPU from 0")]
pub struct DeviceError;

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let digits = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
        let index = index.parse().ok().filter(|index| digits && *index <= i32::MAX as u32).ok_or(DeviceError)?;
        match kind {
            "cpu" if kind == text => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(index)),
            "tensorrt" => Ok(Self::TensorRt(index)),
            _ => Err(DeviceError),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::TensorRt(index) => write!(f, "tensorrt:{index}"),
        }
    }
}

impl Device {
    /// Whether ONNX Runtime, as it is installed, was built for this. It may fail all the same when a session is opened: a
    /// driver or a library may be missing.
    pub fn is_built_in(self) -> Result<bool, Fault> {
        environment()?;
        let asked = match self {
            Self::Cpu => Ok(true),
            Self::Cuda(_) => CUDA::is_available(),
            Self::TensorRt(_) => TensorRT::is_available(),
        };
        asked.map_err(|error| self.refused(error.message()))
    }

    /// What a session is to be given, first choice first. `M128` when ONNX Runtime was not built for it.
    pub(crate) fn providers(self) -> Result<Vec<ExecutionProviderDispatch>, Fault> {
        if !self.is_built_in()? {
            let path = locate_onnx_runtime()?;
            return Err(self.refused(&format!("ONNX Runtime at `{}` was built without it", path.display())));
        }
        // Products of 19 bits, which is what CUDA takes for 32-bit floats unless told, are further off than what is promised.
        let cuda =
            |index: u32| CUDA::default().with_device_id(index as i32).with_tf32(false).build().error_on_failure();
        Ok(match self {
            Self::Cpu => Vec::new(),
            Self::Cuda(index) => vec![cuda(index)],
            Self::TensorRt(index) => {
                let tensorrt = TensorRT::default().with_device_id(index as i32).build().error_on_failure();
                vec![tensorrt, cuda(index)]
            }
        })
    }

    /// The fault of a device that cannot be had.
    pub(crate) fn refused(self, reason: &str) -> Fault {
        Fault::new("M128", format!("`device: {self}` cannot be used: {reason}")).help(
            "install ONNX Runtime for GPUs (PyPI: onnxruntime-gpu), let ORT_DYLIB_PATH name its library, and check the \
             driver; or take `device: cpu`",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_written_as_it_is_read() {
        for (text, device) in [
            ("cpu", Device::Cpu),
            ("cuda:0", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
            ("tensorrt:1", Device::TensorRt(1)),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for text in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:+1", "cuda:99999999999", "cuda:0:1", "CPU"] {
            assert_eq!(text.parse::<Device>(), Err(DeviceError), "{text}");
        }
    }

    #[test]
    fn a_gpu_that_is_asked_for_and_cannot_be_had_is_told_with_the_library() {
        assert!(Device::Cpu.is_built_in().unwrap());
        let device = Device::Cuda(0);
        if device.is_built_in().unwrap() {
            // Built for GPUs: what it needs is found or missed when a session is opened.
            assert_eq!(device.providers().unwrap().len(), 1);
        } else {
            let fault = device.providers().err().unwrap();
            assert!(
                fault.code == "M128" && fault.message.contains("cuda:0") && fault.message.contains("onnxruntime"),
                "{fault}"
            );
        }
    }
}
