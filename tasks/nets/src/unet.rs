//! UNet with a ResNet encoder: segmentation_models_pytorch's `Unet`.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};

use crate::convolve::convolve;
use crate::layers::{ConvNorm, conv_norm, conv_norm_relu, head, nearest, size};
use crate::{Error, ResNet, ResNetConfig, Weights};

/// How to make a [`Unet`].
#[derive(Clone, Copy, Debug)]
pub struct UnetConfig {
    /// Its encoder.
    pub encoder: ResNetConfig,
    /// Channels of its output.
    pub classes: usize,
}

impl UnetConfig {
    /// The network before training.
    pub fn init(&self, device: &Device) -> Unet {
        let decoder = DecoderConfig::new(self.encoder.width);
        Unet {
            encoder: self.encoder.init(device),
            decoder: decoder.init(self.encoder.channels(), device),
            segmentation_head: [head(decoder.out(), self.classes, 3, device)],
        }
    }
}

/// UNet (Ronneberger and others, 2015) with a ResNet encoder.
#[derive(Module, Debug)]
pub struct Unet {
    encoder: ResNet,
    decoder: Decoder,
    segmentation_head: [Conv2d; 1],
}

impl Unet {
    /// Logits (batch, classes, height, width) of images (batch, channels, height, width) of any size.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let full = size(&x);
        let x = self.decoder.forward(self.encoder.forward(x), full);
        convolve(&self.segmentation_head[0], x)
    }

    /// Takes an encoder that was trained on other imagery: see [`ResNet::transfer`].
    pub fn transfer(self, weights: &Weights) -> Result<Self, Error> {
        Ok(Self { encoder: self.encoder.transfer(weights)?, ..self })
    }
}

/// How wide the decoder's blocks are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecoderConfig {
    channels: [usize; 5],
}

impl DecoderConfig {
    /// Fewest channels of the last two blocks: of two or four, ReLU may leave nothing that rises where an object is.
    const LEAST: usize = 8;

    /// For an encoder of this width; 256, 128, 64, 32, 16 for the 64 of the published ones.
    pub(crate) fn new(width: usize) -> Self {
        let last = [2, 4].map(|share| (width / share).max(Self::LEAST));
        Self { channels: [4 * width, 2 * width, width, last[0], last[1]] }
    }

    /// Channels of the decoder's output.
    pub(crate) fn out(&self) -> usize {
        self.channels[4]
    }

    /// A decoder of features that have these channels, the largest features first.
    pub(crate) fn init(&self, encoder: [usize; 5], device: &Device) -> Decoder {
        let skips = [encoder[3], encoder[2], encoder[1], encoder[0], 0];
        let mut from = encoder[4];
        let block = |(skip, to): (usize, usize)| {
            let conv1 = conv_norm(std::mem::replace(&mut from, to) + skip, to, 3, device);
            DecoderBlock { conv1, conv2: conv_norm(to, to, 3, device) }
        };
        Decoder { blocks: skips.into_iter().zip(self.channels).map(block).collect() }
    }
}

/// Five blocks, from the smallest features to the size of the input.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    blocks: Vec<DecoderBlock>,
}

impl Decoder {
    /// `full` is the size of the network's input.
    pub(crate) fn forward(&self, features: [Tensor<4>; 5], full: [usize; 2]) -> Tensor<4> {
        let [half, quarter, eighth, sixteenth, smallest] = features;
        let skips = [Some(sixteenth), Some(eighth), Some(quarter), Some(half), None];
        self.blocks.iter().zip(skips).fold(smallest, |x, (block, skip)| block.forward(x, skip, full))
    }
}

#[derive(Module, Debug)]
struct DecoderBlock {
    conv1: ConvNorm,
    conv2: ConvNorm,
}

impl DecoderBlock {
    fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, full: [usize; 2]) -> Tensor<4> {
        let x = match skip {
            Some(skip) => Tensor::cat(vec![nearest(x, size(&skip)), skip], 1),
            None => nearest(x, full),
        };
        conv_norm_relu(&self.conv2, conv_norm_relu(&self.conv1, x))
    }
}
