//! ConvNeXt, a classifier of whole chips: torchvision's.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Dropout, DropoutConfig, Gelu, Identity, Initializer, PaddingConfig2d};
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::convolve::convolve;
use crate::layers::{ChannelNorm, Pointwise};
use crate::{Error, Weights};

/// The size of a ConvNeXt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConvNextSize {
    /// 28 million parameters.
    #[default]
    Tiny,
    /// 50 million parameters.
    Small,
    /// 88 million parameters.
    Base,
}

/// How to make a [`ConvNext`].
#[derive(Clone, Copy, Debug)]
pub struct ConvNextConfig {
    /// Its size.
    pub size: ConvNextSize,
    /// Channels of the input.
    pub in_channels: usize,
    /// How many classes it tells apart.
    pub classes: usize,
}

impl ConvNextConfig {
    /// Channels of the four stages.
    fn widths(&self) -> [usize; 4] {
        match self.size {
            ConvNextSize::Tiny | ConvNextSize::Small => [96, 192, 384, 768],
            ConvNextSize::Base => [128, 256, 512, 1024],
        }
    }

    /// Blocks in each stage.
    fn blocks(&self) -> [usize; 4] {
        match self.size {
            ConvNextSize::Tiny => [3, 3, 9, 3],
            ConvNextSize::Small | ConvNextSize::Base => [3, 3, 27, 3],
        }
    }

    /// With which probability the last block is left out in training; the ones before it less, the first never.
    fn stochastic_depth(&self) -> f64 {
        match self.size {
            ConvNextSize::Tiny => 0.1,
            ConvNextSize::Small => 0.4,
            ConvNextSize::Base => 0.5,
        }
    }

    /// The network before training.
    pub fn init(&self, device: &Device) -> ConvNext {
        let (widths, blocks) = (self.widths(), self.blocks());
        let last = blocks.iter().sum::<usize>() - 1;
        let stage = |stage: usize| -> Vec<Block> {
            let before: usize = blocks[..stage].iter().sum();
            let drop = |index| self.stochastic_depth() * (before + index) as f64 / last as f64;
            (0..blocks[stage]).map(|index| Block::new(widths[stage], drop(index), device)).collect()
        };
        let downsample = |stage: usize| -> Downsample {
            let (from, to) = (widths[stage], widths[stage + 1]);
            (ChannelNorm::new(from, device), patches(from, to, 2, device))
        };
        ConvNext {
            features: (
                (patches(self.in_channels, widths[0], 4, device), ChannelNorm::new(widths[0], device)),
                stage(0),
                downsample(0),
                stage(1),
                downsample(1),
                stage(2),
                downsample(2),
                stage(3),
            ),
            classifier: (
                ChannelNorm::new(widths[3], device),
                Identity,
                Pointwise::new(widths[3], self.classes, start(), device),
            ),
        }
    }
}

type Stem = (Conv2d, ChannelNorm);
type Downsample = (ChannelNorm, Conv2d);
type Features = (Stem, Vec<Block>, Downsample, Vec<Block>, Downsample, Vec<Block>, Downsample, Vec<Block>);

/// ConvNeXt (Liu and others, 2022).
#[derive(Module, Debug)]
pub struct ConvNext {
    features: Features,
    /// The [`Identity`] stands where torchvision flattens.
    classifier: (ChannelNorm, Identity, Pointwise),
}

impl ConvNext {
    /// Logits (batch, classes) of images (batch, channels, height, width) of at least 32 x 32 pixels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let logits = self.forward_with(x, &Gelu::forward);
        let [batch, classes, ..] = logits.dims();
        logits.reshape([batch, classes])
    }

    /// The same as (batch, classes, 1, 1), with something else where a [`Gelu`] is: for those who record the network and know no `Gelu`.
    pub fn forward_with(&self, x: Tensor<4>, gelu: &dyn Fn(&Gelu, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let ((patches, norm), first, to_second, second, to_third, third, to_fourth, fourth) = &self.features;
        let stage = |blocks: &[Block], x| blocks.iter().fold(x, |x, block| block.forward(x, gelu));
        let downsample = |(norm, conv): &Downsample, x| convolve(conv, norm.forward(x));
        let x = stage(first, norm.forward(convolve(patches, x)));
        let x = stage(second, downsample(to_second, x));
        let x = stage(third, downsample(to_third, x));
        let x = stage(fourth, downsample(to_fourth, x));
        let (norm, _, linear) = &self.classifier;
        linear.forward(norm.forward(adaptive_avg_pool2d(x, [1, 1])))
    }

    /// Takes weights trained on other imagery, the first layer's inflated to this network's channels. The last layer,
    /// which tells the classes apart, stays as it is.
    pub fn transfer(self, weights: &Weights) -> Result<Self, Error> {
        weights.transfer(self, "features.0.0.weight", "classifier.2.")
    }
}

/// A depthwise convolution and two layers at every pixel. [`Identity`] stands where torchvision permutes.
type Layers = (Conv2d, Identity, ChannelNorm, Pointwise, Gelu, Pointwise);

#[derive(Module, Debug)]
struct Block {
    layer_scale: Param<Tensor<3>>,
    block: Layers,
    drop: Dropout,
}

impl Block {
    /// How much a block adds to its input at first.
    const SCALE: f64 = 1e-6;

    fn new(width: usize, drop: f64, device: &Device) -> Self {
        let depthwise = Conv2dConfig::new([width, width], [7, 7])
            .with_groups(width)
            .with_padding(PaddingConfig2d::Explicit(3, 3, 3, 3));
        let block = (
            with_zero_bias(depthwise, device),
            Identity,
            ChannelNorm::new(width, device),
            Pointwise::new(width, 4 * width, start(), device),
            Gelu::new(),
            Pointwise::new(4 * width, width, start(), device),
        );
        let layer_scale = Initializer::Constant { value: Self::SCALE }.init([width, 1, 1], device);
        Self { layer_scale, block, drop: DropoutConfig::new(drop).init() }
    }

    fn forward(&self, x: Tensor<4>, gelu: &dyn Fn(&Gelu, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let (depthwise, _, norm, widen, activation, narrow) = &self.block;
        let added = widen.forward(norm.forward(depthwise.forward(x.clone())));
        let added = narrow.forward(gelu(activation, added));
        let [width, ..] = self.layer_scale.dims();
        x + self.thin_out(added * self.layer_scale.val().reshape([1, width, 1, 1]))
    }

    /// In training, leaves out what is added to some images of the batch: `StochasticDepth(mode="row")`.
    fn thin_out(&self, added: Tensor<4>) -> Tensor<4> {
        let device = added.device();
        if !device.is_autodiff() {
            return added;
        }
        let kept = self.drop.forward(Tensor::ones([added.dims()[0], 1, 1, 1], &device));
        added * kept
    }
}

/// A convolution of patches that do not overlap.
fn patches(from: usize, to: usize, size: usize, device: &Device) -> Conv2d {
    with_zero_bias(Conv2dConfig::new([from, to], [size, size]).with_stride([size, size]), device)
}

fn with_zero_bias(config: Conv2dConfig, device: &Device) -> Conv2d {
    let [_, to] = config.channels;
    let mut conv = config.with_initializer(start()).init(device);
    conv.bias = Some(Initializer::Zeros.init([to], device));
    conv
}

/// torchvision truncates this at a hundred standard deviations.
fn start() -> Initializer {
    Initializer::Normal { mean: 0.0, std: 0.02 }
}
