//! Whether an exported network computes what the network that was trained computes: ONNX Runtime against burn.
//!
//! ONNX Runtime also judges what `rules` leaves to it: it checks every operator's attributes, types and shapes against ONNX's
//! schemas when it loads a network.

use burn::tensor::{Device, Tensor, TensorData};
use ort::session::Session;
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use swath_kinds::Normalisation;
use swath_nets::Model;
use swath_task::{Context, Fault, TaskError};

use crate::convert::{INPUT, OUTPUT};

/// How many images ONNX Runtime is given at once, one after the other.
pub(crate) const BATCHES: [usize; 8] = [1, 2, 3, 4, 8, 16, 31, 32];
/// The largest difference that is accepted, as a share of the largest logit.
const TOLERANCE: f64 = 1e-5;
/// Images that burn is given at once.
const SLICE: usize = 4;
/// Most bytes of images: of large tiles there are fewer, and the largest batches are left out.
const MOST: usize = 128 << 20;

/// An exported network and the one it was made of.
pub(crate) struct Pair<'a> {
    /// The network that was trained.
    pub network: &'a Model,
    /// The exported one.
    pub exported: &'a [u8],
    /// Channels, rows and columns of an image.
    pub image: [usize; 3],
    /// How pixels become input, which tells what numbers are usual.
    pub normalisation: &'a Normalisation,
}

/// How well two networks agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreement {
    /// The largest difference of two logits.
    pub difference: f64,
    /// The largest logit.
    pub largest: f64,
    /// The largest batch that was tried.
    pub batch: usize,
}

impl Pair<'_> {
    /// Runs both on the same images. `M107` when ONNX Runtime refuses the network, `M145` when they differ.
    pub fn agree(&self, batches: &[usize], ctx: &Context) -> Result<Agreement, TaskError> {
        let mut session = swath_onnxruntime::open(self.exported, "model.onnx", ctx.cpus())?;
        let fit = ((MOST / 4) / self.image.iter().product::<usize>()).max(1);
        let batches: Vec<usize> = batches.iter().copied().filter(|batch| *batch <= fit).collect();
        let most = batches.iter().copied().max().unwrap_or(1);
        let images = self.images(most);
        let (wanted, classes) = self.logits(&images, ctx)?;
        let each = wanted.len() / most;
        self.ends(&session, classes)?;
        let largest = wanted.iter().map(|logit| f64::from(logit.abs())).fold(0.0, f64::max);
        let mut difference = 0.0;
        for (done, batch) in batches.iter().enumerate() {
            ctx.check_cancelled()?;
            ctx.progress(done as u64, batches.len() as u64, "batches");
            let found = self.run(&mut session, *batch, &images)?;
            let here = found.iter().zip(&wanted).map(|(found, wanted)| f64::from((found - wanted).abs()));
            // Not `f64::max`, which would lose a NaN.
            let here = here.fold(0.0, |most, one| if one > most || one.is_nan() { one } else { most });
            if found.len() != batch * each {
                return Err(
                    differs(&format!("{batch} images give {} logits, not {}", found.len(), batch * each)).into()
                );
            }
            if here.is_nan() || here > TOLERANCE * largest {
                return Err(differs(&format!(
                    "of {batch} images logits differ by {here:.3e} where the largest is {largest:.3e}"
                ))
                .into());
            }
            difference = f64::max(difference, here);
        }
        Ok(Agreement { difference, largest, batch: most })
    }

    fn numbers(&self) -> usize {
        self.image.iter().product()
    }

    /// Random images, the same every time; the first is without data.
    fn images(&self, count: usize) -> Vec<f32> {
        let (range, fill) = match self.normalisation {
            Normalisation::Standard { fill, .. } => (-2.0..2.0, *fill),
            Normalisation::Stretch { fill, .. } | Normalisation::None { fill } => (0.0..1.0, *fill),
        };
        let mut random = StdRng::seed_from_u64(0);
        let mut images: Vec<f32> = (0..count * self.numbers()).map(|_| random.random_range(range.clone())).collect();
        images[..self.numbers()].fill(fill);
        images
    }

    /// What burn computes, and for how many classes.
    fn logits(&self, images: &[f32], ctx: &Context) -> Result<(Vec<f32>, usize), TaskError> {
        let [channels, rows, columns] = self.image;
        let (mut logits, mut classes) = (Vec::new(), 0);
        for slice in images.chunks(SLICE * self.numbers()) {
            ctx.check_cancelled()?;
            let shape = [slice.len() / self.numbers(), channels, rows, columns];
            let slice = Tensor::<4>::from_data(TensorData::new(slice.to_vec(), shape), &Device::flex());
            let output = self.network.forward(slice);
            classes = output.dims()[1];
            let output = output.into_data();
            logits.extend_from_slice(output.as_slice::<f32>().expect("networks compute in 32-bit floats"));
        }
        Ok((logits, classes))
    }

    fn run(&self, session: &mut Session, batch: usize, images: &[f32]) -> Result<Vec<f32>, Fault> {
        let [channels, rows, columns] = self.image;
        let failed = |error: ort::Error| {
            differs(&format!("ONNX Runtime does not run {batch} images of it: {}", error.message()))
        };
        let shape = [batch, channels, rows, columns];
        let tensor = TensorRef::from_array_view((shape, &images[..batch * self.numbers()])).map_err(failed)?;
        let outputs = session.run(ort::inputs![INPUT => tensor]).map_err(failed)?;
        let (_, logits) = outputs[OUTPUT].try_extract_tensor::<f32>().map_err(failed)?;
        Ok(logits.to_vec())
    }

    /// Whether ONNX Runtime sees the ends that the manifest will tell of, with a batch that is free.
    fn ends(&self, session: &Session, classes: usize) -> Result<(), Fault> {
        for (ends, name, channels) in [(session.inputs(), INPUT, self.image[0]), (session.outputs(), OUTPUT, classes)] {
            let fits = |end: &Outlet| match end.dtype() {
                ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => {
                    shape.len() == 4
                        && shape[0] == -1
                        && shape[1] == channels as i64
                        && shape[2..].iter().all(|s| *s > 0)
                }
                _ => false,
            };
            if !matches!(ends, [end] if end.name() == name && fits(end)) {
                return Err(differs(&format!("ONNX Runtime sees `{name}` as {ends:?}")));
            }
        }
        Ok(())
    }
}

fn differs(reason: &str) -> Fault {
    Fault::new("M145", format!("the exported network is not the one that was trained: {reason}"))
        .help("nothing was written; logits of a network that diverged can be too large to compare: look at its scores")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use swath_nets::Network;
    use swath_task::local::LocalHost;

    use super::*;
    use crate::convert::{bytes, convert};

    fn unet(seed: u64) -> Model {
        let unet = json!({ "architecture": "unet", "encoder": "small", "width": 4, "in_channels": 2, "classes": 1 });
        let network: Network = serde_json::from_value(unet).unwrap();
        let device = Device::flex();
        device.seed(seed);
        let network = network.init(&device).unwrap();
        // Weights are drawn when they are first used.
        network.forward(Tensor::zeros([1, 2, 32, 32], &device));
        network
    }

    fn host() -> (tempfile::TempDir, Arc<LocalHost>) {
        let folder = tempfile::tempdir().unwrap();
        let host = LocalHost::new(folder.path()).unwrap();
        (folder, host)
    }

    const STRETCH: Normalisation = Normalisation::Stretch { low: Vec::new(), high: Vec::new(), fill: 0.5 };

    #[test]
    fn every_batch_from_1_to_32_agrees() {
        let network = unet(1);
        let exported = bytes(&convert(&network, 2, 64).unwrap()).unwrap();
        let pair = Pair { network: &network, exported: &exported, image: [2, 64, 64], normalisation: &STRETCH };
        let (_folder, host) = host();
        let agreement = pair.agree(&(1..=32).collect::<Vec<_>>(), &host.context(2)).unwrap();
        assert_eq!(agreement.batch, 32);
        assert!(agreement.difference <= 1e-5 * agreement.largest && agreement.largest > 0.0, "{agreement:?}");
    }

    #[test]
    fn another_network_is_told_apart() {
        let (network, other) = (unet(1), unet(2));
        let exported = bytes(&convert(&other, 2, 64).unwrap()).unwrap();
        let pair = Pair { network: &network, exported: &exported, image: [2, 64, 64], normalisation: &STRETCH };
        let (_folder, host) = host();
        let error = pair.agree(&BATCHES, &host.context(1)).unwrap_err().to_string();
        assert!(error.contains("of 1 images logits differ by") && error.ends_with("[M145]"), "{error}");
        let of_another_size = Pair { image: [2, 32, 32], ..pair };
        let error = of_another_size.agree(&BATCHES, &host.context(1)).unwrap_err().to_string();
        assert!(error.contains("ONNX Runtime does not run 1 images of it") && error.ends_with("[M145]"), "{error}");
    }
}
