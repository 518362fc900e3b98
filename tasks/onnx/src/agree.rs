//! Whether an exported network computes what the network that was trained computes: ONNX Runtime against burn.
//!
//! Both round, each in an order of its own. There are networks that make much of a rounding error: of those the trained one in
//! 64-bit floats is the judge, and the exported one may be some times as far from that as the trained one is itself.
//!
//! ONNX Runtime also judges what `rules` leaves to it: it checks every operator's attributes, types and shapes against ONNX's
//! schemas when it loads a network.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
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
/// Beyond that: how many times as far from the numbers in 64-bit floats as the trained network is.
const ROUNDING: f64 = 8.0;
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
    /// How far rounding takes the trained network's logits from those in 64-bit floats, where that had to be known.
    pub rounding: Option<f64>,
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
        let (mut difference, mut exact) = (0.0, None);
        for (done, batch) in batches.iter().enumerate() {
            ctx.check_cancelled()?;
            ctx.progress(done as u64, batches.len() as u64, "batches");
            let found = self.run(&mut session, *batch, &images)?;
            let here = apart(&found, &wanted);
            if found.len() != batch * each {
                return Err(
                    differs(&format!("{batch} images give {} logits, not {}", found.len(), batch * each)).into()
                );
            }
            let differ = || format!("of {batch} images logits differ by {here:.3e} where the largest is {largest:.3e}");
            if here.is_nan() || largest.is_infinite() {
                return Err(differs(&differ()).into());
            }
            if here > TOLERANCE * largest {
                let exact = match &exact {
                    Some(exact) => exact,
                    None => exact.insert(self.exact(&images, ctx)?),
                };
                let (theirs, own) = (apart(&found, exact), apart(&wanted, exact));
                if theirs > ROUNDING * own {
                    let told = "in 64-bit floats the trained network differs from itself by";
                    return Err(differs(&format!("{}; {told} {own:.3e}", differ())).into());
                }
            }
            difference = f64::max(difference, here);
        }
        let rounding = exact.map(|exact| apart(&wanted, &exact));
        Ok(Agreement { difference, rounding, largest, batch: most })
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
        let (mut logits, mut classes) = (Vec::new(), 0);
        self.forward(images, ctx, &mut |slice| {
            let output = self.network.forward(slice);
            classes = output.dims()[1];
            let output = output.into_data();
            logits.extend_from_slice(output.as_slice::<f32>().expect("networks compute in 32-bit floats"));
        })?;
        Ok((logits, classes))
    }

    /// What burn computes in 64-bit floats.
    fn exact(&self, images: &[f32], ctx: &Context) -> Result<Vec<f64>, TaskError> {
        let (network, mut logits) = (self.network.precise(), Vec::new());
        self.forward(images, ctx, &mut |slice| {
            let output = network.forward(slice.cast(FloatDType::F64)).into_data();
            logits.extend_from_slice(output.as_slice::<f64>().expect("the network computes in 64-bit floats"));
        })?;
        Ok(logits)
    }

    fn forward(&self, images: &[f32], ctx: &Context, run: &mut dyn FnMut(Tensor<4>)) -> Result<(), TaskError> {
        let [channels, rows, columns] = self.image;
        for slice in images.chunks(SLICE * self.numbers()) {
            ctx.check_cancelled()?;
            let shape = [slice.len() / self.numbers(), channels, rows, columns];
            run(Tensor::from_data(TensorData::new(slice.to_vec(), shape), &Device::flex()));
        }
        Ok(())
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

/// The largest difference; NaN where there is one.
fn apart<T: Copy + Into<f64>>(some: &[f32], others: &[T]) -> f64 {
    let differences = some.iter().zip(others).map(|(one, other)| (f64::from(*one) - (*other).into()).abs());
    // Not `f64::max`, which would lose a NaN.
    differences.fold(0.0, |most, one| if one > most || one.is_nan() { one } else { most })
}

fn differs(reason: &str) -> Fault {
    Fault::new("M145", format!("the exported network is not the one that was trained: {reason}"))
        .help("nothing was written; logits of a network that diverged can be too large to compare: look at its scores")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::module::{Module, ModuleMapper, Param};
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

    /// Makes logits differences of channels that differ by a ten-thousandth.
    #[derive(Default)]
    struct Steep {
        path: Vec<String>,
    }

    impl ModuleMapper for Steep {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let path = self.path.join(".");
            if !path.ends_with("weight") || !(path.contains("blocks.4.conv2") || path.contains("segmentation_head")) {
                return param;
            }
            param.map(|weight| {
                let head = path.contains("segmentation_head");
                let (side, factor) = (
                    usize::from(head),
                    if head {
                        -1.0
                    } else if D == 1 {
                        1.0001
                    } else {
                        1.0
                    },
                );
                let pairs = weight.dims()[side] / 2;
                let first = weight.narrow(side, 0, 1);
                let pair = [first.clone(), first * factor];
                Tensor::cat(std::iter::repeat_n(pair, pairs).flatten().collect(), side)
            })
        }
    }

    /// Makes all weights of the last layer larger.
    #[derive(Default)]
    struct Larger {
        inside: bool,
    }

    impl ModuleMapper for Larger {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.inside |= name == "segmentation_head";
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.inside { param.map(|weight| weight * 1.5) } else { param }
        }
    }

    #[test]
    fn a_network_that_makes_much_of_rounding_may_be_as_far_off_as_it_is_itself() {
        let network = unet(1).map(&mut Steep::default());
        let exported = bytes(&convert(&network, 2, 64).unwrap()).unwrap();
        let pair = Pair { network: &network, exported: &exported, image: [2, 64, 64], normalisation: &STRETCH };
        let (_folder, host) = host();
        let agreement = pair.agree(&[1, 2, 4], &host.context(2)).unwrap();
        let rounding = agreement.rounding.expect("more than 1e-5 apart");
        assert!(agreement.difference > 1e-5 * agreement.largest && rounding > 0.0, "{agreement:?}");

        let other = network.clone().map(&mut Larger::default());
        let exported = bytes(&convert(&other, 2, 64).unwrap()).unwrap();
        let error = Pair { exported: &exported, ..pair }.agree(&[1, 2, 4], &host.context(2)).unwrap_err().to_string();
        assert!(error.contains("in 64-bit floats the trained network differs from itself by"), "{error}");
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
