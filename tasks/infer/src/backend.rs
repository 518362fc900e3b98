//! What computes: networks behind a small trait, in this process or on a server.

use std::sync::Arc;

use swath_onnxruntime::Device;
use swath_task::{Context, Fault, TaskError};

use crate::model::Model;
use crate::serving::{BackendChoice, DeviceChoice, Serving};
use crate::session::OrtBackend;
use crate::tiling::Tile;
use crate::triton::{Served, TritonBackend, address_of_environment};
use crate::weights::WeightsBackend;

/// A network that turns tiles into numbers.
///
/// # Contract
/// - `run` reads the first `batch * input_channels * size * size` numbers of `input` and writes
///   `batch * output_channels * told * told` (see [`Tile`]), both `[batch, channel, row, column]`. It may be called from one thread at a
///   time. It may use `input` up, and leaves it as long as it was.
/// - After `interrupt`, a `run` in progress ends soon, with an error; so do those to come.
/// - `confirm` is called after the last `run`, and ends early when the attempt is told to stop.
pub(crate) trait Backend: Send + Sync {
    /// Runs `batch` tiles.
    fn run(&self, batch: usize, input: &mut Vec<f32>, output: &mut [f32]) -> Result<(), TaskError>;
    /// Where it is, for messages.
    fn place(&self) -> &str;
    /// Ends a `run` in progress and those to come.
    fn interrupt(&self) {}
    /// Whether it was the same network from the first run to the last.
    fn confirm(&self, _ctx: &Context) -> Result<(), TaskError> {
        Ok(())
    }
}

/// A network that was found and checked.
pub(crate) enum Opened {
    /// In ONNX Runtime.
    Ort(Vec<OrtBackend>, Device),
    /// On a model server.
    Served(Arc<Served>),
    /// In burn.
    Weights(Box<WeightsBackend>),
}

/// Tiles that keep a GPU busy.
const GPU_BATCH: usize = 8;

impl Opened {
    /// Finds a network where the settings say, and checks it against the manifest and the tile.
    pub fn open(
        serving: &Serving<'_>,
        model: &Model,
        tile: Tile,
        threads: usize,
        ctx: &Context,
    ) -> Result<Self, TaskError> {
        // A device that is named is one of this machine.
        let here = matches!(serving.device, DeviceChoice::Named(_));
        let named = serving.triton.url.is_some() || address_of_environment().is_some();
        match serving.backend {
            BackendChoice::Auto if named && !here => Self::served(serving, model, tile, ctx),
            BackendChoice::Triton => Self::served(serving, model, tile, ctx),
            BackendChoice::Auto | BackendChoice::Ort => Self::ort(serving.device, model, tile, threads, ctx),
            BackendChoice::Burn => {
                Ok(Self::Weights(Box::new(WeightsBackend::open(model, tile, threads, serving.device, ctx)?)))
            }
        }
    }

    fn ort(device: DeviceChoice, model: &Model, tile: Tile, threads: usize, ctx: &Context) -> Result<Self, TaskError> {
        let on = |device| OrtBackend::open_lanes(model, tile, threads, device).map(|lanes| Self::Ort(lanes, device));
        let device = match device {
            DeviceChoice::Named(device) => return Ok(on(device)?),
            DeviceChoice::Auto => match ctx.gpus().first() {
                Some(gpu) => Device::Cuda(*gpu),
                None => Device::Cpu,
            },
        };
        if device != Device::Cpu && device.is_built_in()? {
            match on(device) {
                // The step holds a GPU that ONNX Runtime cannot use: it is slower without, and no less right.
                Err(fault) if fault.code == "M128" => tracing::warn!("computing on the CPU: {}", fault.message),
                other => return Ok(other?),
            }
        }
        Ok(on(Device::Cpu)?)
    }

    fn served(serving: &Serving<'_>, model: &Model, tile: Tile, ctx: &Context) -> Result<Self, TaskError> {
        // Whoever has the network beside the manifest has the one that the manifest tells of.
        model.check_network_if_there()?;
        Ok(Self::Served(Arc::new(Served::open(serving.triton, &model.manifest, tile, ctx)?)))
    }

    /// The number of tiles the network takes at once, when it is fixed.
    pub fn fixed_batch(&self) -> Option<usize> {
        match self {
            Self::Ort(lanes, _) => lanes.iter().find_map(OrtBackend::fixed_batch),
            Self::Served(served) => served.fixed_batch(),
            Self::Weights(_) => None,
        }
    }

    /// The number of tiles at once that suits it.
    pub fn usual_batch(&self) -> usize {
        match self {
            Self::Ort(_, Device::Cpu) => 1,
            Self::Weights(network) if !network.on_gpu() => 1,
            Self::Ort(..) | Self::Weights(_) => GPU_BATCH,
            Self::Served(served) => served.usual_batch(),
        }
    }

    /// Checks that it takes so many tiles at once.
    pub fn check_batch(&self, batch: usize) -> Result<(), Fault> {
        match self {
            Self::Served(served) => served.check_batch(batch),
            Self::Ort(..) | Self::Weights(_) => Ok(()),
        }
    }

    /// Whether tiles travel, and are held once more on their way.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Served(_))
    }

    /// All that run side by side. `requests`: as many as a flow asks for, where it is a server.
    pub fn networks(self, batch: usize, requests: Option<usize>) -> Vec<Box<dyn Backend>> {
        match self {
            Self::Ort(lanes, _) => lanes.into_iter().map(|lane| Box::new(lane) as Box<dyn Backend>).collect(),
            Self::Weights(network) => vec![network],
            Self::Served(served) => {
                let count = requests.unwrap_or_else(|| served.usual_requests(batch));
                (0..count).map(|_| Box::new(TritonBackend::new(&served)) as Box<dyn Backend>).collect()
            }
        }
    }
}
