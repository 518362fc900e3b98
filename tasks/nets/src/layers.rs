//! Layers that several networks share, each under the names that PyTorch gives it.
//!
//! A tuple stands for PyTorch's `Sequential`: its fields are named `0`, `1`, ... in files of weights.

use burn::module::{Flag, Module, Param, RunningState};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::module::{batch_norm, batch_norm_train, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};

use crate::convolve::{convolution, convolve};

/// `Conv2d`, `BatchNorm2d` (and `ReLU`, which has no weights).
pub(crate) type ConvNorm = (Conv2d, BatchNorm);

/// A depthwise and a pointwise convolution: `SeparableConv2d`.
pub(crate) type Separable = (Conv2d, Conv2d);

/// A convolution without bias that keeps the size of its input at stride 1.
pub(crate) fn conv(from: usize, to: usize, kernel: usize) -> Conv2dConfig {
    dilated(from, to, kernel, 1)
}

/// [`conv`] with `dilation - 1` pixels between those that it reads.
pub(crate) fn dilated(from: usize, to: usize, kernel: usize, dilation: usize) -> Conv2dConfig {
    let pad = kernel / 2 * dilation;
    Conv2dConfig::new([from, to], [kernel, kernel])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_dilation([dilation, dilation])
        .with_bias(false)
}

/// How a decoder of segmentation_models_pytorch begins: `kaiming_uniform_(mode="fan_in", nonlinearity="relu")`.
pub(crate) fn decoder_start() -> Initializer {
    Initializer::KaimingUniform { gain: 2f64.sqrt(), fan_out_only: false }
}

pub(crate) fn conv_norm(from: usize, to: usize, kernel: usize, device: &Device) -> ConvNorm {
    (conv(from, to, kernel).with_initializer(decoder_start()).init(device), BatchNorm::new(to, device))
}

pub(crate) fn conv_norm_relu((conv, norm): &ConvNorm, x: Tensor<4>) -> Tensor<4> {
    relu(norm.forward(convolve(conv, x)))
}

/// A 3x3 separable convolution.
pub(crate) fn separable(from: usize, to: usize, dilation: usize, device: &Device) -> Separable {
    let depthwise = dilated(from, from, 3, dilation).with_groups(from).with_initializer(decoder_start());
    (depthwise.init(device), conv(from, to, 1).with_initializer(decoder_start()).init(device))
}

/// The last layer of a segmentation network, which begins as `xavier_uniform_` with no bias.
pub(crate) fn head(from: usize, classes: usize, kernel: usize, device: &Device) -> Conv2d {
    let start = Initializer::XavierUniform { gain: 1.0 };
    let mut head = conv(from, classes, kernel).with_initializer(start).init(device);
    head.bias = Some(Initializer::Zeros.init([classes], device));
    head
}

/// Height and width.
pub(crate) fn size(x: &Tensor<4>) -> [usize; 2] {
    let [_, _, height, width] = x.dims();
    [height, width]
}

/// To `size`, each pixel as the nearest: `interpolate(mode="nearest")`.
pub(crate) fn nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let options = InterpolateOptions::new(InterpolateMode::Nearest).with_align_corners(false);
    interpolate(x, options.with_output_size(size))
}

/// To `size`, bilinearly between corners that stay: `Upsample(mode="bilinear", align_corners=True)`.
pub(crate) fn bilinear(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    interpolate(x, InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size(size))
}

/// `BatchNorm2d`.
///
/// burn has one too, whose running variance is that of the batch; PyTorch's is an estimate of the variance of all
/// images, which is larger by `n / (n - 1)` for `n` pixels. A batch of one pixel is normalised by the running statistics.
#[derive(Module, Debug)]
pub struct BatchNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
    /// Whether batches are normalised by their own statistics on a device that computes gradients.
    training: Param<Flag>,
}

impl BatchNorm {
    const EPSILON: f64 = 1e-5;
    const MOMENTUM: f64 = 0.1;

    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            training: Param::from_bool(true),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let precision = x.dtype();
        self.normalise(x.cast(self.weight.dtype())).cast(precision)
    }

    /// In the precision of the statistics, which is more than that of the images where training mixes the two.
    fn normalise(&self, x: Tensor<4>) -> Tensor<4> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let [batch, _, height, width] = x.dims();
        let pixels = (batch * height * width) as f64;
        // One value has no variance: PyTorch refuses it, dividing by it would drive the running one to nothing.
        if pixels < 2.0 || !(x.device().is_autodiff() && self.training.is_enabled()) {
            let [mean, variance] =
                [&self.running_mean, &self.running_var].map(|state| state.value().cast(weight.dtype()));
            return batch_norm(x, weight, bias, mean, variance, Self::EPSILON);
        }
        let normal = batch_norm_train(x, weight, bias, Self::EPSILON);
        let run = |state: &RunningState<Tensor<1>>, now: Tensor<1>| {
            let before = state.value_sync();
            state.update((before * (1.0 - Self::MOMENTUM) + now * Self::MOMENTUM).detach());
        };
        run(&self.running_mean, normal.mean.detach());
        run(&self.running_var, normal.variance.detach() * (pixels / (pixels - 1.0)));
        normal.output
    }
}

/// `LayerNorm` over the channels of an image: torchvision's `LayerNorm2d`, and its `LayerNorm` between two `Permute`s.
///
/// Written as sums, so that nothing is permuted: not here, and not in an exported graph. (burn-onnx 0.22 lowers neither
/// `permute` nor `mean_dim`.)
#[derive(Module, Debug)]
pub struct ChannelNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl ChannelNorm {
    /// What ConvNeXt adds to the variance.
    const EPSILON: f64 = 1e-6;

    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        let start = |start: Initializer| start.init([channels], device);
        Self { weight: start(Initializer::Ones), bias: start(Initializer::Zeros) }
    }

    /// In the precision of the weights, as [`BatchNorm`].
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let precision = x.dtype();
        let x = x.cast(self.weight.dtype());
        let [_, channels, ..] = x.dims();
        let mean = |x: Tensor<4>| x.sum_dim(1) / channels as f64;
        let centred = x.clone() - mean(x);
        let variance = mean(centred.clone() * centred.clone());
        let shape = [1, channels, 1, 1];
        let normal = centred / (variance + Self::EPSILON).sqrt();
        (normal * self.weight.val().reshape(shape) + self.bias.val().reshape(shape)).cast(precision)
    }
}

/// `Linear` at every pixel, as the 1x1 convolution that it is. The weight has `Linear`'s shape in PyTorch, `[to, from]`.
#[derive(Module, Debug)]
pub struct Pointwise {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Pointwise {
    pub(crate) fn new(from: usize, to: usize, weight: Initializer, device: &Device) -> Self {
        Self {
            weight: weight.init_with([to, from], Some(from), Some(to), device),
            bias: Initializer::Zeros.init([to], device),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [to, from] = self.weight.dims();
        let weight = self.weight.val().reshape([to, from, 1, 1]);
        convolution(x, weight, Some(self.bias.val()), ConvOptions::new([1, 1], [0, 0], [1, 1], 1))
    }
}
