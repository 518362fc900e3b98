//! UNet with two encoders: optical and radar imagery of one place, each seen by a network of its own.
//!
//! segmentation_models_pytorch has no such network, but all its parts: two of its encoders, named `optical` and `sar`,
//! and its `UnetDecoder`, which reads the features of both, joined stage by stage.

use std::ops::Range;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::convolve::convolve;
use crate::layers::{head, size};
use crate::unet::{Decoder, DecoderConfig};
use crate::{Error, ResNet, ResNetConfig, Weights};

/// How to make a [`DualUnet`].
#[derive(Clone, Copy, Debug)]
pub struct DualUnetConfig {
    /// The encoder of optical imagery.
    pub optical: ResNetConfig,
    /// Channels of radar imagery, whose encoder is otherwise the same.
    pub sar_channels: usize,
    /// Channels of the output.
    pub classes: usize,
}

impl DualUnetConfig {
    /// The network before training.
    pub fn init(&self, device: &Device) -> DualUnet {
        let sar = ResNetConfig { in_channels: self.sar_channels, ..self.optical };
        let decoder = DecoderConfig::new(self.optical.width);
        DualUnet {
            optical: self.optical.init(device),
            sar: sar.init(device),
            decoder: decoder.init(self.optical.channels().map(|channels| 2 * channels), device),
            segmentation_head: [head(decoder.out(), self.classes, 3, device)],
            optical_channels: self.optical.in_channels,
        }
    }
}

/// A UNet of two encoders and one decoder.
#[derive(Module, Debug)]
pub struct DualUnet {
    optical: ResNet,
    sar: ResNet,
    decoder: Decoder,
    segmentation_head: [Conv2d; 1],
    optical_channels: usize,
}

impl DualUnet {
    /// Logits (batch, classes, height, width) of images whose first channels are optical and the others radar.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (full, channels) = (size(&x), x.dims()[1]);
        let optical = self.optical.forward(take(&x, 0..self.optical_channels));
        let sar = self.sar.forward(take(&x, self.optical_channels..channels));
        let mut pairs = optical.into_iter().zip(sar);
        let joined = std::array::from_fn(|_| {
            let (optical, sar) = pairs.next().expect("five features of each");
            Tensor::cat(vec![optical, sar], 1)
        });
        convolve(&self.segmentation_head[0], self.decoder.forward(joined, full))
    }

    /// Takes one encoder that was trained on other imagery for both: see [`ResNet::transfer`].
    pub fn transfer(self, weights: &Weights) -> Result<Self, Error> {
        Ok(Self { optical: self.optical.transfer(weights)?, sar: self.sar.transfer(weights)?, ..self })
    }
}

/// Some channels of images. By their indices and not as a slice, which names the size of the batch as well: burn-onnx 0.22
/// exports no slice of a batch of any size.
fn take(x: &Tensor<4>, channels: Range<usize>) -> Tensor<4> {
    let indices: Vec<i64> = channels.map(|channel| channel as i64).collect();
    let count = indices.len();
    x.clone().select(1, Tensor::<1, Int>::from_data(TensorData::new(indices, [count]), &x.device()))
}
