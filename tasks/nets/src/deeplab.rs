//! DeepLabV3+ with a ResNet encoder: segmentation_models_pytorch's `DeepLabV3Plus`.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use burn::nn::{Dropout, DropoutConfig, Relu};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use crate::convolve::convolve;
use crate::layers::{
    BatchNorm, ConvNorm, Separable, bilinear, conv, conv_norm, conv_norm_relu, decoder_start, head, nearest, separable,
    size,
};
use crate::{Error, ResNet, ResNetConfig, Weights};

/// How to make a [`DeepLab`].
#[derive(Clone, Copy, Debug)]
pub struct DeepLabConfig {
    /// Its encoder, with a dilated last stage.
    pub encoder: ResNetConfig,
    /// Channels of its output.
    pub classes: usize,
}

impl DeepLabConfig {
    /// The network before training.
    pub fn init(&self, device: &Device) -> DeepLab {
        let channels = self.encoder.channels();
        let width = 4 * self.encoder.width;
        let decoder = Decoder {
            aspp: (
                Aspp::new(channels[4], width, device),
                separable(width, width, 1, device),
                BatchNorm::new(width, device),
            ),
            block1: conv_norm(channels[1], Decoder::FINE, 1, device),
            block2: (separable(Decoder::FINE + width, width, 1, device), BatchNorm::new(width, device)),
        };
        DeepLab {
            encoder: self.encoder.init(device),
            decoder,
            segmentation_head: [head(width, self.classes, 1, device)],
        }
    }
}

/// DeepLabV3+ (Chen and others, 2018) of output stride 16.
#[derive(Module, Debug)]
pub struct DeepLab {
    encoder: ResNet,
    decoder: Decoder,
    segmentation_head: [Conv2d; 1],
}

impl DeepLab {
    /// Logits (batch, classes, height, width) of images (batch, channels, height, width) of any size.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let full = size(&x);
        let [_, quarter, _, _, last] = self.encoder.forward(x);
        let x = self.decoder.forward(quarter, last);
        bilinear(convolve(&self.segmentation_head[0], x), full)
    }

    /// Takes an encoder that was trained on other imagery: see [`ResNet::transfer`].
    pub fn transfer(self, weights: &Weights) -> Result<Self, Error> {
        Ok(Self { encoder: self.encoder.transfer(weights)?, ..self })
    }
}

/// A separable convolution and its `BatchNorm2d`.
type SeparableNorm = (Separable, BatchNorm);

fn separable_norm_relu((pair, norm): &SeparableNorm, x: Tensor<4>) -> Tensor<4> {
    relu(norm.forward(convolve(&pair.1, pair.0.forward(x))))
}

#[derive(Module, Debug)]
struct Decoder {
    aspp: (Aspp, Separable, BatchNorm),
    block1: ConvNorm,
    block2: SeparableNorm,
}

impl Decoder {
    /// To how many channels the fine features are brought: 48 in the paper.
    const FINE: usize = 48;

    fn forward(&self, quarter: Tensor<4>, last: Tensor<4>) -> Tensor<4> {
        let (aspp, pair, norm) = &self.aspp;
        let x = relu(norm.forward(convolve(&pair.1, pair.0.forward(aspp.forward(last)))));
        let x = bilinear(x, size(&quarter));
        let x = Tensor::cat(vec![x, conv_norm_relu(&self.block1, quarter)], 1);
        separable_norm_relu(&self.block2, x)
    }
}

/// The mean of the whole image, a convolution of it and its `BatchNorm2d`.
type Pooling = (AdaptiveAvgPool2d, Conv2d, BatchNorm);

/// Atrous spatial pyramid pooling: the same features seen from near and far.
#[derive(Module, Debug)]
struct Aspp {
    convs: (ConvNorm, SeparableNorm, SeparableNorm, SeparableNorm, Pooling),
    project: (Conv2d, BatchNorm, Relu, Dropout),
}

impl Aspp {
    /// Dilations of the three separable convolutions.
    const RATES: [usize; 3] = [12, 24, 36];
    const DROPOUT: f64 = 0.5;

    fn new(from: usize, to: usize, device: &Device) -> Self {
        let far = |rate| (separable(from, to, rate, device), BatchNorm::new(to, device));
        let plain = |from| conv(from, to, 1).with_initializer(decoder_start()).init(device);
        let pooling = (AdaptiveAvgPool2dConfig::new([1, 1]).init(), plain(from), BatchNorm::new(to, device));
        let [near, middle, wide] = Self::RATES.map(far);
        Self {
            convs: (conv_norm(from, to, 1, device), near, middle, wide, pooling),
            project: (plain(5 * to), BatchNorm::new(to, device), Relu, DropoutConfig::new(Self::DROPOUT).init()),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (point, near, middle, wide, (pool, conv, norm)) = &self.convs;
        let mean = relu(norm.forward(convolve(conv, pool.forward(x.clone()))));
        let mean = nearest(mean, size(&x));
        let seen = vec![
            conv_norm_relu(point, x.clone()),
            separable_norm_relu(near, x.clone()),
            separable_norm_relu(middle, x.clone()),
            separable_norm_relu(wide, x),
            mean,
        ];
        let (conv, norm, relu, dropout) = &self.project;
        dropout.forward(relu.forward(norm.forward(convolve(conv, Tensor::cat(seen, 1)))))
    }
}
