//! What training makes small: focal and Dice loss of pixels, cross-entropy of classes.
//!
//! Targets have the shape of the logits, and lie between 0 and 1: a target of 0.5 says that a pixel is ambiguous.

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
    /// The mean over all logits.
    pub fn forward<const D: usize>(&self, logits: Tensor<D>, targets: Tensor<D>) -> Tensor<1> {
        let yes = targets * (1.0 - self.smoothing) + self.smoothing / 2.0;
        let no = -yes.clone() + 1.0;
        let entropy = -(yes.clone() * log_sigmoid(logits.clone()) + no.clone() * log_sigmoid(-logits.clone()));
        let sure = sigmoid(logits);
        // How much was told wrong.
        let wrong = sure.clone() * no.clone() + (-sure + 1.0) * yes.clone();
        let weight = yes * self.alpha + no * (1.0 - self.alpha);
        (weight * wrong.powf_scalar(self.gamma) * entropy).mean()
    }
}

/// Soft Dice loss: 1 minus how far prediction and target overlap, over the whole batch, and the mean over the classes. A
/// class that is nowhere in the targets adds nothing. segmentation_models_pytorch's `DiceLoss`.
///
/// Of several classes each pixel has one, so that their probabilities sum to one; a single one is yes or no.
pub fn dice(logits: Tensor<4>, targets: Tensor<4>) -> Tensor<1> {
    let classes = logits.dims()[1];
    let told = if classes == 1 { sigmoid(logits) } else { softmax(logits, 1) };
    let per_class = |x: Tensor<4>| x.swap_dims(0, 1).flatten::<2>(1, 3).sum_dim(1).flatten::<1>(0, 1);
    let both = per_class(told.clone()) + per_class(targets.clone());
    let apart = per_class((told - targets.clone()).abs());
    let overlap = (both.clone() - apart) / both.clamp_min(1e-7);
    let present = per_class(targets).greater_elem(0.0).float();
    ((-overlap + 1.0) * present).mean()
}

/// Focal loss and half of Dice loss: for pixels of which few are positive.
pub fn focal_dice(focal: &Focal, logits: Tensor<4>, targets: Tensor<4>) -> Tensor<1> {
    focal.forward(logits.clone(), targets.clone()) + dice(logits, targets) * 0.5
}

/// Cross-entropy along dimension 1, of targets that sum to one there and are moved by `smoothing` towards all classes
/// alike: PyTorch's `cross_entropy(label_smoothing=...)`.
pub fn cross_entropy<const D: usize>(logits: Tensor<D>, targets: Tensor<D>, smoothing: f64) -> Tensor<1> {
    let classes = logits.dims()[1] as f64;
    let targets = targets * (1.0 - smoothing) + smoothing / classes;
    -(targets * log_softmax(logits, 1)).mean() * classes
}
