//! What computes, and with which numbers.

use burn::tensor::{Device, FloatDType};
use swath_task::{Fault, TaskError};

use crate::settings::{DeviceChoice, Precision};

/// A device that is there.
pub(crate) struct Machine {
    /// Without autodiff.
    pub device: Device,
    /// `cpu`, `cuda:0`.
    pub name: String,
    /// What images are cast to while training; `None`: 32-bit floats.
    pub half: Option<FloatDType>,
}

impl Machine {
    /// The device that is asked for. `gpus` are those that the step holds.
    ///
    /// # Errors
    /// A GPU that is not there, or numbers that the device is not given.
    pub fn choose(choice: DeviceChoice, precision: Precision, gpus: &[u32]) -> Result<Self, TaskError> {
        let gpu = match choice {
            DeviceChoice::Cpu => None,
            DeviceChoice::Cuda(index) => Some(index),
            DeviceChoice::Auto => gpus.first().copied(),
        };
        match gpu {
            Some(index) => Ok(Self {
                device: cuda(index)?,
                name: format!("cuda:{index}"),
                half: match precision {
                    Precision::Auto | Precision::Bf16 => Some(FloatDType::BF16),
                    Precision::F16 => Some(FloatDType::F16),
                    Precision::F32 => None,
                },
            }),
            None if matches!(precision, Precision::Bf16 | Precision::F16) => {
                Err(Fault::new("N111", "half precision is asked for, and this training computes on the CPU")
                    .help("leave `precision` out: CPUs compute faster and better with 32-bit floats")
                    .permanent())
            }
            None => Ok(Self { device: Device::flex(), name: "cpu".to_owned(), half: None }),
        }
    }
}

fn cuda(index: u32) -> Result<Device, TaskError> {
    swath_nets::gpu(index).map_err(|reason| {
        Fault::new("N106", format!("`cuda:{index}` is asked for, and {reason}")).help(reason.help()).permanent()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(choice: DeviceChoice, precision: Precision, gpus: &[u32]) -> Result<String, String> {
        Machine::choose(choice, precision, gpus).map(|machine| machine.name).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_gpu_the_cpu_computes_and_nothing_else_is_pretended() {
        assert_eq!(told(DeviceChoice::Auto, Precision::Auto, &[]).unwrap(), "cpu");
        let refused = told(DeviceChoice::Cuda(77), Precision::Auto, &[]).unwrap_err();
        assert!(refused.contains("`cuda:77` is asked for, and "), "{refused}");
        assert_eq!(refused.contains("built without CUDA"), !cfg!(feature = "cuda"), "{refused}");
        assert!(told(DeviceChoice::Auto, Precision::Auto, &[77]).unwrap_err().contains("[N106]"));
        assert!(told(DeviceChoice::Cpu, Precision::Bf16, &[]).unwrap_err().contains("[N111]"));
    }
}
