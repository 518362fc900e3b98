//! A step of the optimiser: losses, gradients of several batches, their length, and the scale that half precision needs.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use swath_nets::{Focal, Model, cross_entropy, focal_dice};

use crate::settings::Loss;

/// What is made small, of a batch.
pub(crate) fn objective(loss: Loss, logits: Tensor<4>, targets: Tensor<4>, valid: Tensor<4>) -> Tensor<1> {
    match loss {
        Loss::FocalDice { alpha, gamma, smoothing } => {
            focal_dice(&Focal { alpha, gamma, smoothing }, logits, targets, valid)
        }
        // Of yes and no: focal loss that cares for all alike, twice because alpha halves it.
        Loss::CrossEntropy { smoothing } if logits.dims()[1] == 1 => {
            Focal { alpha: 0.5, gamma: 0.0, smoothing }.forward(logits, targets, valid) * 2.0
        }
        Loss::CrossEntropy { smoothing } => cross_entropy(logits, targets, valid, smoothing),
    }
}

/// The length of the gradient of all weights together.
pub(crate) fn length(model: &Model, gradients: &GradientsParams) -> f64 {
    let mut squares = Squares { gradients, sum: None };
    model.visit(&mut squares);
    squares.sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let own = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + own,
                None => own,
            });
        }
    }
}

/// Multiplies all gradients.
pub(crate) fn multiply(model: &Model, gradients: &mut GradientsParams, by: f64) {
    model.visit(&mut Multiply { gradients, by });
}

struct Multiply<'a> {
    gradients: &'a mut GradientsParams,
    by: f64,
}

impl ModuleVisitor for Multiply<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register::<D>(param.id, gradient * self.by);
        }
    }
}

/// What the gradient is multiplied with so that it is at most `most` long: PyTorch's `clip_grad_norm_`.
pub(crate) fn clip(length: f64, most: Option<f64>) -> f64 {
    most.map_or(1.0, |most| (most / (length + 1e-6)).min(1.0))
}

/// What the loss is multiplied with before gradients are computed of it in 16-bit floats of little range, and divided by
/// after: as PyTorch's `GradScaler`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scale {
    pub by: f64,
    good: u32,
}

impl Scale {
    /// Steps without overflow after which it doubles.
    const GROWS_AFTER: u32 = 2000;

    pub fn new(scaled: bool) -> Self {
        Self { by: if scaled { 65_536.0 } else { 1.0 }, good: 0 }
    }

    /// Hears that a step was well.
    pub fn well(&mut self) {
        self.good += 1;
        if self.good == Self::GROWS_AFTER {
            (self.by, self.good) = (self.by * 2.0, 0);
        }
    }

    /// Hears that gradients were too large; whether a smaller scale may help.
    pub fn overflowed(&mut self) -> bool {
        (self.by, self.good) = (self.by / 2.0, 0);
        self.by >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_overflow_and_doubles_after_long_peace() {
        let mut scale = Scale::new(true);
        assert!(scale.overflowed() && scale.by == 32_768.0);
        for _ in 0..2000 {
            scale.well();
        }
        assert_eq!(scale.by, 65_536.0);
        let mut small = Scale::new(true);
        assert_eq!((0..100).take_while(|_| small.overflowed()).count(), 16, "then no scale helps");
    }
}
