//! Training and inference measured, of a UNet with ResNet-34 on ten bands: gpu_bench DEVICE FOLDER [BATCH [STEPS [SIDE]]].
//!
//! DEVICE is `cpu` or `cuda:N`; images are BATCH (32) of SIDE x SIDE (256) pixels; STEPS (30) are counted after three that are not.
//! A line of JSON a measurement. FOLDER becomes a model folder that `infer.segment` runs with burn, and holds the logits of the
//! first images, which `bench/gpu/peers.py` holds against PyTorch's. This program is all that it needs where it runs;
//! `bench/gpu.sh` packs it for a machine with a GPU.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde_json::json;
use swath_nets::{Focal, Model, Network, focal_dice, gpu};

const BANDS: usize = 10;
/// Steps that allocate, compile kernels and choose among them.
const WARM: usize = 3;
/// Images whose logits are compared.
const COMPARED: usize = 2;
const PRECISIONS: [(&str, Option<FloatDType>); 3] =
    [("f32", None), ("bf16", Some(FloatDType::BF16)), ("f16", Some(FloatDType::F16))];

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    match Bench::new().and_then(|bench| bench.all()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu_bench: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    device: Device,
    name: String,
    folder: PathBuf,
    network: Network,
    batch: usize,
    steps: usize,
    side: usize,
}

impl Bench {
    fn new() -> Outcome<Self> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [name, folder, sizes @ ..] = arguments.as_slice() else {
            return Err("gpu_bench DEVICE FOLDER [BATCH [STEPS [SIDE]]]".into());
        };
        let size = |index: usize, usual: usize| sizes.get(index).map_or(Ok(usual), |text| text.parse());
        let device = match name.strip_prefix("cuda:") {
            Some(index) => gpu(index.parse()?).map_err(|error| format!("`{name}`: {error}; {}", error.help()))?,
            None if name == "cpu" => Device::flex(),
            None => return Err(format!("`{name}` is no device: it is `cpu`, or `cuda:0` and on").into()),
        };
        Ok(Self {
            device,
            name: name.clone(),
            folder: PathBuf::from(folder),
            network: serde_json::from_value(json!({"architecture": "unet", "in_channels": BANDS}))?,
            batch: size(0, 32)?.max(COMPARED),
            steps: size(1, 30)?.max(1),
            side: size(2, 256)?,
        })
    }

    fn all(&self) -> Outcome {
        self.write_model()?;
        for (name, half) in PRECISIONS {
            self.inference(name, half)?;
        }
        for (name, half) in PRECISIONS {
            self.training(name, half)?;
        }
        Ok(())
    }

    fn weights(&self) -> PathBuf {
        self.folder.join("1/weights.safetensors")
    }

    /// A network of seeded weights, in a folder that `infer.segment` runs with `backend: burn`.
    fn write_model(&self) -> Outcome {
        let cpu = Device::flex();
        cpu.seed(1);
        std::fs::create_dir_all(self.folder.join("1"))?;
        self.network.init(&cpu)?.save(&self.weights())?;
        let digest = format!("blake3:{}", blake3::hash(&std::fs::read(self.weights())?).to_hex());
        let names: Vec<_> = (0..BANDS).map(|band| json!({"name": format!("b{band}")})).collect();
        let manifest = json!({
            "name": "gpu_bench", "version": 1, "about": "Random weights", "file": "1/model.onnx",
            "digest": digest, "bands": names,
            "normalisation": {"method": "standard", "mean": vec![0.25; BANDS], "std": vec![0.06; BANDS], "fill": 0.0},
            "input": {"name": "image", "channels": BANDS}, "output": {"name": "logits", "channels": 1},
            "activation": "logits", "tile": {"size": 256, "multiple_of": 32}, "classes": ["a"], "gsd": 10.0,
            "checkpoint": {"file": "1/weights.safetensors", "digest": digest, "network": self.network}
        });
        Ok(std::fs::write(self.folder.join("manifest.json"), manifest.to_string())?)
    }

    fn begin(&self, device: &Device) -> Outcome<Model> {
        Ok(self.network.init(device)?.load(&self.weights())?)
    }

    fn tensor(&self, values: Vec<f32>, channels: usize, device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values, [self.batch, channels, self.side, self.side]), device)
    }

    fn inference(&self, precision: &str, half: Option<FloatDType>) -> Outcome {
        let model = self.begin(&self.device)?;
        let model = half.map_or_else(|| model.clone(), |half| model.mixed(half));
        let forward = |images: Tensor<4>| match half {
            Some(half) => model.forward(images.cast(half)).cast(FloatDType::F32),
            None => model.forward(images),
        };
        let values = images(self.batch * BANDS * self.side * self.side);
        let resident = self.tensor(values.clone(), BANDS, &self.device);
        let told = forward(resident.clone()).into_data().try_to_vec::<f32>()?;
        let compared = &told[..COMPARED * self.side * self.side];
        std::fs::write(self.folder.join(format!("logits.{precision}")), little_endian(compared))?;

        let seconds = self.time(|| {
            let logits = forward(resident.clone());
            self.device.sync()?;
            drop(logits);
            Ok(())
        })?;
        self.tell("inference", precision, &seconds, json!({}));
        let seconds = self.time(|| {
            let logits = forward(self.tensor(values.clone(), BANDS, &self.device)).into_data();
            if logits.shape().num_elements() == told.len() { Ok(()) } else { Err("tiles were lost".into()) }
        })?;
        self.tell("inference from and to memory", precision, &seconds, json!({}));
        Ok(())
    }

    /// Steps as `train.segmentation` takes them: mixed precision, the loss read, the length of the gradient checked, AdamW.
    fn training(&self, precision: &str, half: Option<FloatDType>) -> Outcome {
        let device = self.device.clone().autodiff();
        let mut model = self.begin(&device)?;
        let mut optimiser: ModuleOptimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-4).init();
        let pixels = self.batch * self.side * self.side;
        let images = self.tensor(images(pixels * BANDS), BANDS, &device);
        let targets = self.tensor(targets(pixels), 1, &device);
        let valid = Tensor::<4>::ones([self.batch, 1, self.side, self.side], &device);
        let scale = if half == Some(FloatDType::F16) { 65_536.0 } else { 1.0 };
        let mut losses = Vec::new();
        let seconds = self.time(|| {
            let logits = match half {
                Some(half) => model.mixed(half).forward(images.clone().cast(half)).cast(FloatDType::F32),
                None => model.forward(images.clone()),
            };
            let loss = focal_dice(&Focal::default(), logits, targets.clone(), valid.clone());
            losses.push(loss.clone().into_scalar::<f32>());
            let mut gradients = GradientsParams::from_grads((loss * scale).backward(), &model);
            if !unscale(&model, &mut gradients, scale).is_finite() {
                return Err(format!("the gradient in {precision} is not finite").into());
            }
            model = optimiser.step(1e-3, model.clone(), gradients);
            Ok(())
        })?;
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        if !last.is_finite() || last >= first {
            return Err(format!("training in {precision} does not learn: the loss was {first}, and is {last}").into());
        }
        self.tell("training", precision, &seconds, json!({"first_loss": first, "last_loss": last}));
        Ok(())
    }

    /// Seconds of each step, the first ones included.
    fn time(&self, mut step: impl FnMut() -> Outcome) -> Outcome<Vec<f64>> {
        let mut seconds = Vec::new();
        for _ in 0..WARM + self.steps {
            let began = Instant::now();
            step()?;
            self.device.sync()?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }

    fn tell(&self, bench: &str, precision: &str, seconds: &[f64], more: serde_json::Value) {
        let mut counted = seconds[WARM..].to_vec();
        counted.sort_by(f64::total_cmp);
        let median = counted[counted.len() / 2];
        let mut line = json!({
            "bench": bench, "peer": "swath", "device": self.name, "precision": precision, "batch": self.batch,
            "side": self.side, "steps": self.steps, "images_per_second": self.batch as f64 / median,
            "median_seconds": median, "least_seconds": counted[0], "first_seconds": seconds[0]
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            line[name] = value.clone();
        }
        println!("{line}");
    }
}

/// Numbers that look random, the same in `peers.py`: the hash `lowbias32` of each index.
fn noise(count: usize, seed: u32) -> impl Iterator<Item = u32> {
    (0..count as u32).map(move |index| {
        let mut x = index.wrapping_add(seed);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    })
}

/// Of mean 0 and variance 1.
fn images(count: usize) -> Vec<f32> {
    noise(count, 0).map(|x| ((f64::from(x) / 4_294_967_296.0 - 0.5) * 12f64.sqrt()) as f32).collect()
}

/// A tenth of them 1.
fn targets(count: usize) -> Vec<f32> {
    noise(count, 0x9e37_79b9).map(|x| if x < 429_496_730 { 1.0 } else { 0.0 }).collect()
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Divides all gradients, and tells their length.
fn unscale(model: &Model, gradients: &mut GradientsParams, scale: f64) -> f64 {
    let mut unscale = Unscale { gradients, by: 1.0 / scale, squares: None };
    model.visit(&mut unscale);
    unscale.squares.map_or(0.0, |squares| f64::from(squares.into_scalar::<f32>()).sqrt())
}

struct Unscale<'a> {
    gradients: &'a mut GradientsParams,
    by: f64,
    squares: Option<Tensor<1>>,
}

impl ModuleVisitor for Unscale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(mut gradient) = self.gradients.remove::<D>(param.id) else { return };
        if self.by != 1.0 {
            gradient = gradient * self.by;
        }
        let own = gradient.clone().square().sum();
        self.squares = Some(match self.squares.take() {
            Some(sum) => sum + own,
            None => own,
        });
        self.gradients.register::<D>(param.id, gradient);
    }
}
