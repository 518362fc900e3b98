//! The weights that a network was made from, run by burn in this process: no ONNX, nothing but Rust. On the CPU, or on a GPU
//! where this program was built with CUDA.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Deserialize;
use swath_nets::{Network, NoGpu, Output};
use swath_onnxruntime::Device as Named;
use swath_task::{Context, Fault, TaskError, panic_fault};

use crate::backend::Backend;
use crate::model::Model;
use crate::serving::DeviceChoice;
use crate::tiling::Tile;

/// A network in burn, for tiles of one size.
pub(crate) struct WeightsBackend {
    network: Mutex<swath_nets::Model>,
    device: Device,
    on_gpu: bool,
    threads: ThreadPool,
    place: String,
    channels: usize,
    classes: usize,
    tile: Tile,
    stopped: AtomicBool,
}

impl WeightsBackend {
    /// Reads the weights of a model folder and checks what they are the weights of against the manifest.
    pub fn open(model: &Model, tile: Tile, threads: usize, choice: DeviceChoice, ctx: &Context) -> Result<Self, Fault> {
        let gpu = gpu(choice, ctx)?;
        let (path, told) = model.weights()?;
        let fault =
            |reason: String| Fault::new("M127", format!("the weights `{}` cannot be run: {reason}", path.display()));
        let wrong =
            |reason: String| fault(reason).help("export the model again with `onnx.export`, or take `backend: ort`");
        let of_other_task = |what: &str, task: &str| {
            fault(format!("their network tells of {what}: `{task}` runs it")).help(format!("take `{task}`"))
        };
        let network = Network::deserialize(told).map_err(|error| wrong(format!("`checkpoint.network`: {error}")))?;
        let manifest = &model.manifest;
        let (channels, classes) = (manifest.input.channels as usize, manifest.output.channels as usize);
        match (network.output(), tile.output) {
            (Output::Image, Output::Pixels) => {
                return Err(of_other_task("whole images", "infer.classify"));
            }
            (Output::Pixels, Output::Image) => {
                return Err(of_other_task("every pixel", "infer.segment"));
            }
            _ => {}
        }
        if (network.in_channels(), network.classes()) != (channels, classes) {
            let (of_weights, out) = (network.in_channels(), network.classes());
            let reason = format!(
                "their network has {of_weights} channels in and {out} out, the manifest {channels} and {classes}"
            );
            // Where it is the manifest's ends that are wrong, they are so for every backend.
            return Err(fault(reason).help(
                "correct `input`, `output` and `checkpoint` of the manifest, or export the model again with `onnx.export`",
            ));
        }
        let on_gpu = gpu.is_some();
        let device = gpu.unwrap_or_else(Device::flex);
        let loaded = network.init(&device).and_then(|network| network.load(&path));
        let threads = ThreadPoolBuilder::new().num_threads(threads).thread_name(|_| "infer-burn".to_owned()).build();
        Ok(Self {
            network: Mutex::new(loaded.map_err(|error| wrong(error.to_string()))?),
            device,
            on_gpu,
            threads: threads.map_err(|error| wrong(error.to_string()))?,
            place: path.display().to_string(),
            channels,
            classes,
            tile,
            stopped: AtomicBool::new(false),
        })
    }

    /// Whether a GPU computes.
    pub fn on_gpu(&self) -> bool {
        self.on_gpu
    }

    fn forward(&self, batch: usize, numbers: Vec<f32>) -> Result<TensorData, String> {
        let images = TensorData::new(numbers, [batch, self.channels, self.tile.size, self.tile.size]);
        let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        let logits = network.forward(Tensor::<4>::from_data(images, &self.device));
        let (got, expected) = (logits.dims(), [batch, self.classes, self.tile.told(), self.tile.told()]);
        if got == expected {
            Ok(logits.into_data())
        } else {
            Err(format!("its output has shape {got:?}, not {expected:?}"))
        }
    }
}

/// The GPU that is asked for, or that the step holds; none for the CPU.
fn gpu(choice: DeviceChoice, ctx: &Context) -> Result<Option<Device>, Fault> {
    let refused = |device: Named, reason: String, help: &str| {
        Fault::new("M128", format!("`device: {device}` cannot be used by burn: {reason}")).help(help)
    };
    match choice {
        DeviceChoice::Named(Named::Cpu) => Ok(None),
        DeviceChoice::Named(device @ Named::Cuda(index)) => {
            let gpu = swath_nets::gpu(index).map_err(|reason| refused(device, reason.to_string(), reason.help()))?;
            Ok(Some(gpu))
        }
        DeviceChoice::Named(device @ Named::TensorRt(_)) => {
            Err(refused(device, "TensorRT is ONNX Runtime's".to_owned(), "take `cuda:N`, or `backend: ort`"))
        }
        DeviceChoice::Auto => {
            let Some(held) = ctx.gpus().first() else { return Ok(None) };
            match swath_nets::gpu(*held) {
                Ok(gpu) => return Ok(Some(gpu)),
                Err(NoGpu::NotBuilt) => {}
                // As with ONNX Runtime: slower without the GPU that the step holds, and no less right.
                Err(reason) => tracing::warn!("computing on the CPU: `cuda:{held}` cannot be used: {reason}"),
            }
            Ok(None)
        }
    }
}

impl Backend for WeightsBackend {
    fn run(&self, batch: usize, input: &mut Vec<f32>, output: &mut [f32]) -> Result<(), TaskError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(TaskError::Cancelled);
        }
        let held = input.len();
        let mut numbers = std::mem::take(input);
        numbers.truncate(batch * self.channels * self.tile.area());
        // burn panics where shapes do not fit, as in a network that halves a tile which cannot be.
        let done = self.threads.install(|| catch_unwind(AssertUnwindSafe(|| self.forward(batch, numbers))));
        *input = vec![0.0; held];
        let not_run = |reason: String| {
            Fault::new("M129", format!("burn could not run the weights `{}`: {reason}", self.place))
                .help("check `tile` of the manifest, or take `backend: ort`")
        };
        let data = done.unwrap_or_else(|panic| Err(panic_fault(panic).message)).map_err(not_run)?;
        let numbers = data.as_slice::<f32>().map_err(|error| not_run(error.to_string()))?;
        output.copy_from_slice(numbers);
        Ok(())
    }

    fn place(&self) -> &str {
        &self.place
    }

    fn interrupt(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
