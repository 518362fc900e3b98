//! A step of training, measured: train_bench [STEPS [THREADS]], of a UNet with ResNet-34 on batches of 4 chips of ten bands and
//! 256 x 256 pixels, focal and Dice loss, AdamW. `train_bench.py` measures PyTorch with the same.

use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor};
use serde_json::json;
use swath_nets::{Focal, Network, focal_dice};

const BATCH: usize = 4;
const BANDS: usize = 10;
const SIDE: usize = 256;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let steps: usize = arguments.next().map_or(Ok(5), |steps| steps.parse())?;
    let cores = std::thread::available_parallelism()?.get();
    let threads: usize = arguments.next().map_or(Ok(cores), |threads| threads.parse())?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(|| measure(steps, threads))
}

fn measure(steps: usize, threads: usize) -> Outcome {
    let device = Device::flex().autodiff();
    device.seed(1);
    let network: Network = serde_json::from_value(json!({"architecture": "unet", "in_channels": BANDS}))?;
    let mut model = network.init(&device)?;
    let mut optimiser = AdamWConfig::new().with_epsilon(1e-8).init();
    let images = Tensor::<4>::random([BATCH, BANDS, SIDE, SIDE], Distribution::Normal(0.0, 1.0), &device);
    let targets = Tensor::<4>::random([BATCH, 1, SIDE, SIDE], Distribution::Bernoulli(0.1), &device);
    let valid = Tensor::<4>::ones([BATCH, 1, SIDE, SIDE], &device);
    let mut seconds = Vec::new();
    // The first step allocates, and is not counted.
    for step in 0..=steps {
        let began = Instant::now();
        let logits = model.forward(images.clone());
        let loss = focal_dice(&Focal::default(), logits, targets.clone(), valid.clone());
        let told: f32 = loss.clone().into_scalar();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimiser.step(1e-3, model, gradients);
        if step > 0 {
            seconds.push(began.elapsed().as_secs_f64());
        }
        assert!(told.is_finite());
    }
    seconds.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let parameters = model.num_params();
    println!(
        "{}",
        json!({
            "bench": "training step", "peer": "swath", "steps": steps, "threads": threads, "parameters": parameters,
            "median_seconds": seconds[seconds.len() / 2], "least_seconds": seconds[0], "peak_mib": peak.map(|kib| kib / 1024)
        })
    );
    Ok(())
}
