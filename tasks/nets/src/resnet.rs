//! ResNet as an encoder: torchvision's, as segmentation_models_pytorch takes features from it.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::convolve::convolve;
use crate::layers::{BatchNorm, ConvNorm, conv, dilated};
use crate::{Error, Weights};

/// The encoder of a segmentation network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoder {
    /// ResNet-18: 11 million parameters.
    Resnet18,
    /// ResNet-34: 21 million parameters.
    #[default]
    Resnet34,
    /// ResNet-50: 24 million parameters.
    Resnet50,
    /// A ResNet of one block a stage and a quarter of the width, for a demo that trains on a CPU in minutes.
    Small,
}

impl Encoder {
    /// Blocks in each of the four stages.
    fn blocks(self) -> [usize; 4] {
        match self {
            Self::Resnet18 => [2, 2, 2, 2],
            Self::Resnet34 | Self::Resnet50 => [3, 4, 6, 3],
            Self::Small => [1, 1, 1, 1],
        }
    }

    /// By how much a block's output is wider than what it works on.
    fn expansion(self) -> usize {
        if self == Self::Resnet50 { 4 } else { 1 }
    }

    /// Channels of the first stage unless the user says otherwise.
    pub fn default_width(self) -> usize {
        if self == Self::Small { 16 } else { 64 }
    }
}

/// How to make a [`ResNet`].
#[derive(Clone, Copy, Debug)]
pub struct ResNetConfig {
    /// Which one.
    pub encoder: Encoder,
    /// Channels of the first stage, doubled by each of the next three; 64 in the published ones.
    pub width: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Whether the last stage dilates instead of halving its input, so that its output has a sixteenth of the input's
    /// size and not a thirty-second: `output_stride=16`.
    pub dilated: bool,
}

impl ResNetConfig {
    /// Channels of what [`ResNet::forward`] gives.
    pub fn channels(&self) -> [usize; 5] {
        let out = |stage: usize| (self.width << stage) * self.encoder.expansion();
        [self.width, out(0), out(1), out(2), out(3)]
    }

    /// The network before training, as torchvision starts it: `kaiming_normal_(mode="fan_out", nonlinearity="relu")`.
    pub fn init(&self, device: &Device) -> ResNet {
        let stem = Conv2dConfig::new([self.in_channels, self.width], [7, 7])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(3, 3, 3, 3))
            .with_bias(false);
        ResNet {
            conv1: stem.with_initializer(start()).init(device),
            bn1: BatchNorm::new(self.width, device),
            layer1: self.stage(0, device),
            layer2: self.stage(1, device),
            layer3: self.stage(2, device),
            layer4: self.stage(3, device),
        }
    }

    fn stage(&self, stage: usize, device: &Device) -> Vec<Block> {
        let channels = self.channels();
        let dilation = if stage == 3 && self.dilated { 2 } else { 1 };
        let halve = stage > 0 && dilation == 1;
        let block = |index| {
            let shape = BlockShape {
                from: if index == 0 { channels[stage] } else { channels[stage + 1] },
                width: self.width << stage,
                to: channels[stage + 1],
                stride: if index == 0 && halve { 2 } else { 1 },
                dilation,
            };
            if self.encoder.expansion() == 1 { shape.basic(device) } else { shape.bottleneck(device) }
        };
        (0..self.encoder.blocks()[stage]).map(block).collect()
    }
}

/// A ResNet without its classifier.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
}

impl ResNet {
    /// Features of `x` (batch, channels, height, width) at a half, a quarter, ... of its height and width.
    pub fn forward(&self, x: Tensor<4>) -> [Tensor<4>; 5] {
        let half = relu(self.bn1.forward(convolve(&self.conv1, x)));
        let pooled = max_pool2d(half.clone(), MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]));
        let stage = |blocks: &[Block], x| blocks.iter().fold(x, |x, block| block.forward(x));
        let quarter = stage(&self.layer1, pooled);
        let eighth = stage(&self.layer2, quarter.clone());
        let sixteenth = stage(&self.layer3, eighth.clone());
        let last = stage(&self.layer4, sixteenth.clone());
        [half, quarter, eighth, sixteenth, last]
    }

    /// Takes weights trained on other imagery, the first layer's inflated to this network's channels. A classifier
    /// among them is left.
    pub fn transfer(self, weights: &Weights) -> Result<Self, Error> {
        weights.transfer(self, "conv1.weight", "fc.")
    }
}

/// A residual block: two convolutions (ResNet-18, ResNet-34), or three (ResNet-50).
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    downsample: Option<ConvNorm>,
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward(convolve(conv, x.clone())),
            None => x.clone(),
        };
        let x = relu(self.bn1.forward(convolve(&self.conv1, x)));
        let mut x = self.bn2.forward(convolve(&self.conv2, x));
        if let (Some(conv), Some(norm)) = (&self.conv3, &self.bn3) {
            x = norm.forward(convolve(conv, relu(x)));
        }
        relu(x + shortcut)
    }
}

struct BlockShape {
    from: usize,
    width: usize,
    to: usize,
    stride: usize,
    dilation: usize,
}

impl BlockShape {
    fn basic(&self, device: &Device) -> Block {
        let first = dilated(self.from, self.width, 3, self.dilation).with_stride([self.stride; 2]);
        Block {
            conv1: first.with_initializer(start()).init(device),
            bn1: BatchNorm::new(self.width, device),
            conv2: dilated(self.width, self.to, 3, self.dilation).with_initializer(start()).init(device),
            bn2: BatchNorm::new(self.to, device),
            conv3: None,
            bn3: None,
            downsample: self.downsample(device),
        }
    }

    fn bottleneck(&self, device: &Device) -> Block {
        let middle = dilated(self.width, self.width, 3, self.dilation).with_stride([self.stride; 2]);
        Block {
            conv1: conv(self.from, self.width, 1).with_initializer(start()).init(device),
            bn1: BatchNorm::new(self.width, device),
            conv2: middle.with_initializer(start()).init(device),
            bn2: BatchNorm::new(self.width, device),
            conv3: Some(conv(self.width, self.to, 1).with_initializer(start()).init(device)),
            bn3: Some(BatchNorm::new(self.to, device)),
            downsample: self.downsample(device),
        }
    }

    fn downsample(&self, device: &Device) -> Option<ConvNorm> {
        (self.stride != 1 || self.from != self.to).then(|| {
            let conv = conv(self.from, self.to, 1).with_stride([self.stride; 2]);
            (conv.with_initializer(start()).init(device), BatchNorm::new(self.to, device))
        })
    }
}

fn start() -> Initializer {
    Initializer::KaimingNormal { gain: 2f64.sqrt(), fan_out_only: true }
}
