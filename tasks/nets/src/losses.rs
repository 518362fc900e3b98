//! What training makes small: focal and Dice loss of pixels, cross-entropy of classes.
//!
//! Targets have the shape of the logits, and lie between 0 and 1: a target of 0.5 says that a pixel is ambiguous. `valid` has
//! it too, but for a single channel: 1 where a pixel takes part, 0 where it does not. What does not take part changes neither
//! value nor gradient, whatever its target is, NaN included.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, log_softmax, sigmoid, softmax};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Focal loss (Lin and others, 2017): binary cross-entropy that cares less for what is already told well. torchvision's
/// `sigmoid_focal_loss`, of smoothed targets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Focal {
    /// Weight of positives; negatives have the rest.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// How much less: 0 is binary cross-entropy.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub gamma: f64,
    /// How far targets are moved towards one half, so that the network is never certain.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub smoothing: f64,
}

impl Default for Focal {
    fn default() -> Self {
        Self { alpha: 0.25, gamma: 2.0, smoothing: 0.05 }
    }
}

impl Focal {
    /// The mean over all logits that take part; 0 when there is none.
    pub fn forward<const D: usize>(&self, logits: Tensor<D>, targets: Tensor<D>, valid: Tensor<D>) -> Tensor<1> {
        let (targets, valid) = taking_part(targets, valid);
        let yes = targets * (1.0 - self.smoothing) + self.smoothing / 2.0;
        let no = -yes.clone() + 1.0;
        let entropy = -(yes.clone() * log_sigmoid(logits.clone()) + no.clone() * log_sigmoid(-logits.clone()));
        let sure = sigmoid(logits);
        // How much was told wrong.
        let wrong = sure.clone() * no.clone() + (-sure + 1.0) * yes.clone();
        // Below 1 the power has no slope where nothing is told wrong.
        let flat = self.gamma > 0.0 && self.gamma < 1.0;
        let wrong = if flat { wrong.clamp_min(1e-12) } else { wrong };
        let weight = yes * self.alpha + no * (1.0 - self.alpha);
        mean(weight * wrong.powf_scalar(self.gamma) * entropy, valid)
    }
}

/// Soft Dice loss: 1 minus how far prediction and target overlap, over the whole batch, and the mean over the classes. A
/// class that is nowhere in the targets adds nothing. segmentation_models_pytorch's `DiceLoss`.
///
/// The overlap is counted by differences (Wang and others, 2023, "Dice Semimetric Losses"), as segmentation_models_pytorch
/// does since 0.4: of targets that are 0 or 1 that is the usual product, and a pixel whose target is 0.5 is told best by 0.5.
/// The product would draw such pixels to 0 or 1.
///
/// Of several classes each pixel has one, so that their probabilities sum to one; a single one is yes or no.
pub fn dice(logits: Tensor<4>, targets: Tensor<4>, valid: Tensor<4>) -> Tensor<1> {
    let classes = logits.dims()[1];
    let (targets, valid) = taking_part(targets, valid);
    let told = if classes == 1 { sigmoid(logits) } else { softmax(logits, 1) } * valid.clone();
    let targets = targets * valid;
    let per_class = |x: Tensor<4>| x.swap_dims(0, 1).flatten::<2>(1, 3).sum_dim(1).flatten::<1>(0, 1);
    let both = per_class(told.clone()) + per_class(targets.clone());
    let apart = per_class((told - targets.clone()).abs());
    let overlap = (both.clone() - apart) / both.clamp_min(1e-7);
    let present = per_class(targets).greater_elem(0.0).float();
    ((-overlap + 1.0) * present).mean()
}

/// Focal loss and half of Dice loss: for pixels of which few are positive.
pub fn focal_dice(focal: &Focal, logits: Tensor<4>, targets: Tensor<4>, valid: Tensor<4>) -> Tensor<1> {
    focal.forward(logits.clone(), targets.clone(), valid.clone()) + dice(logits, targets, valid) * 0.5
}

/// Cross-entropy along dimension 1, of targets that sum to one there and are moved by `smoothing` towards all classes
/// alike: PyTorch's `cross_entropy(label_smoothing=...)`.
pub fn cross_entropy<const D: usize>(
    logits: Tensor<D>,
    targets: Tensor<D>,
    valid: Tensor<D>,
    smoothing: f64,
) -> Tensor<1> {
    let classes = logits.dims()[1] as f64;
    let (targets, valid) = taking_part(targets, valid);
    let targets = targets * (1.0 - smoothing) + smoothing / classes;
    -mean(targets * log_softmax(logits, 1), valid) * classes
}

/// Targets that are 0 where a pixel takes no part, for NaN times 0 is NaN; and the mask of all channels.
fn taking_part<const D: usize>(targets: Tensor<D>, valid: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
    let valid = valid.expand(targets.shape());
    (targets.mask_fill(valid.clone().equal_elem(0.0), 0.0), valid)
}

/// The mean of what takes part.
fn mean<const D: usize>(values: Tensor<D>, valid: Tensor<D>) -> Tensor<1> {
    let count = valid.clone().sum().clamp_min(1.0);
    (values * valid).sum() / count
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn what_is_certain_has_a_gradient_that_is_a_number() {
        let device = Device::flex().autodiff();
        for (gamma, smoothing) in [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (2.0, 0.0), (2.0, 0.05)] {
            let tensor = |values: [f32; 4]| Tensor::<1>::from_data(values, &device).reshape([1, 1, 2, 2]);
            let logits = tensor([90.0, -90.0, 90.0, -90.0]).require_grad();
            let (targets, valid) = (tensor([1.0, 0.0, 0.0, 1.0]), Tensor::ones([1, 1, 2, 2], &device));
            let loss = focal_dice(&Focal { gamma, smoothing, ..Focal::default() }, logits.clone(), targets, valid);
            let gradient = logits.grad(&loss.backward()).expect("a gradient").abs().sum().into_scalar::<f32>();
            assert!(gradient.is_finite() && gradient > 0.0, "{gamma} {smoothing}: {gradient}");
        }
    }
}
