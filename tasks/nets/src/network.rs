//! What a network is asked for, as a flow writes it, and the network that comes of it.

use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ConvNext, ConvNextConfig, ConvNextSize, DeepLab, DeepLabConfig, DualUnet, DualUnetConfig, Encoder, Error, ImageNet,
    ResNetConfig, Unet, UnetConfig, Weights,
};

/// A network: its architecture and size.
///
/// `width` is the number of channels of an encoder's first stage; all others follow from it. It is 64 in the published
/// networks, which alone can take ImageNet's weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "architecture", rename_all = "lowercase", deny_unknown_fields)]
pub enum Network {
    /// UNet: a class for every pixel. Sharp edges and small objects.
    Unet {
        /// The encoder.
        #[serde(default)]
        encoder: Encoder,
        /// Channels of the imagery.
        #[schemars(range(min = 1, max = 1024))]
        in_channels: usize,
        /// Channels of the output: 1 for yes or no, else one a class.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 1024))]
        classes: usize,
        /// Channels of the first stage: a multiple of 4. By default 64, or 16 with the encoder `small`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 4, max = 256))]
        width: Option<usize>,
    },

    /// DeepLabV3+: a class for every pixel. Sees far, for objects larger than UNet's view.
    #[serde(rename = "deeplabv3plus")]
    DeepLabV3Plus {
        /// The encoder.
        #[serde(default = "resnet50")]
        encoder: Encoder,
        /// Channels of the imagery.
        #[schemars(range(min = 1, max = 1024))]
        in_channels: usize,
        /// Channels of the output: 1 for yes or no, else one a class.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 1024))]
        classes: usize,
        /// Channels of the first stage: a multiple of 4. By default 64, or 16 with the encoder `small`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 4, max = 256))]
        width: Option<usize>,
    },

    /// UNet with an encoder for optical and one for radar imagery: a class for every pixel. The first channels of the
    /// imagery are optical, the others radar.
    #[serde(rename = "dual_unet")]
    DualUnet {
        /// Both encoders.
        #[serde(default)]
        encoder: Encoder,
        /// Channels of optical imagery.
        #[serde(default = "ten")]
        #[schemars(range(min = 1, max = 1024))]
        optical_channels: usize,
        /// Channels of radar imagery.
        #[serde(default = "two")]
        #[schemars(range(min = 1, max = 1024))]
        sar_channels: usize,
        /// Channels of the output: 1 for yes or no, else one a class.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 1024))]
        classes: usize,
        /// Channels of the first stage: a multiple of 4. By default 64, or 16 with the encoder `small`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 4, max = 256))]
        width: Option<usize>,
    },

    /// ConvNeXt: a class for every image, of at least 32 x 32 pixels.
    ConvNext {
        /// How large it is.
        #[serde(default)]
        size: ConvNextSize,
        /// Channels of the imagery.
        #[schemars(range(min = 1, max = 1024))]
        in_channels: usize,
        /// Channels of the output: 1 for yes or no, else one a class.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 1024))]
        classes: usize,
    },
}

/// What a network tells of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Logits of each pixel.
    Pixels,
    /// Logits of the whole image.
    Image,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn ten() -> usize {
    10
}

fn resnet50() -> Encoder {
    Encoder::Resnet50
}

impl Network {
    /// Channels of its input.
    pub fn in_channels(&self) -> usize {
        match *self {
            Self::Unet { in_channels, .. }
            | Self::DeepLabV3Plus { in_channels, .. }
            | Self::ConvNext { in_channels, .. } => in_channels,
            Self::DualUnet { optical_channels, sar_channels, .. } => optical_channels + sar_channels,
        }
    }

    /// Channels of its output.
    pub fn classes(&self) -> usize {
        match *self {
            Self::Unet { classes, .. }
            | Self::DeepLabV3Plus { classes, .. }
            | Self::DualUnet { classes, .. }
            | Self::ConvNext { classes, .. } => classes,
        }
    }

    /// What it tells of an image.
    pub fn output(&self) -> Output {
        match self {
            Self::Unet { .. } | Self::DeepLabV3Plus { .. } | Self::DualUnet { .. } => Output::Pixels,
            Self::ConvNext { .. } => Output::Image,
        }
    }

    /// Whether such a network can be made.
    pub fn check(&self) -> Result<(), Error> {
        let channels = |setting, value| match value {
            1..=1024 => Ok(()),
            _ => Err(Error::Setting { setting, value, must: "from 1 to 1024" }),
        };
        if let Self::DualUnet { optical_channels, sar_channels, .. } = *self {
            channels("optical_channels", optical_channels)?;
            channels("sar_channels", sar_channels)?;
        } else {
            channels("in_channels", self.in_channels())?;
        }
        channels("classes", self.classes())?;
        match self.width() {
            Some(value) if !(4..=256).contains(&value) || value % 4 != 0 => {
                Err(Error::Setting { setting: "width", value, must: "a multiple of 4 from 4 to 256" })
            }
            _ => Ok(()),
        }
    }

    /// The network before training. What it begins with is drawn on `device`, whose `seed` makes it repeatable.
    pub fn init(&self, device: &Device) -> Result<Model, Error> {
        self.check()?;
        let resnet = |encoder: Encoder, width: Option<usize>, in_channels, dilated| ResNetConfig {
            encoder,
            width: width.unwrap_or(encoder.default_width()),
            in_channels,
            dilated,
        };
        Ok(match *self {
            Self::Unet { encoder, in_channels, classes, width } => {
                let encoder = resnet(encoder, width, in_channels, false);
                Model::Unet(UnetConfig { encoder, classes }.init(device))
            }
            Self::DeepLabV3Plus { encoder, in_channels, classes, width } => {
                let encoder = resnet(encoder, width, in_channels, true);
                Model::DeepLab(DeepLabConfig { encoder, classes }.init(device))
            }
            Self::DualUnet { encoder, optical_channels, sar_channels, classes, width } => {
                let optical = resnet(encoder, width, optical_channels, false);
                Model::Dual(DualUnetConfig { optical, sar_channels, classes }.init(device))
            }
            Self::ConvNext { size, in_channels, classes } => {
                Model::ConvNext(ConvNextConfig { size, in_channels, classes }.init(device))
            }
        })
    }

    /// Where weights that ImageNet has taught it are to be had, for [`Model::transfer`].
    pub fn imagenet(&self) -> Result<ImageNet, Error> {
        let file = match *self {
            Self::ConvNext { size: ConvNextSize::Tiny, .. } => "convnext_tiny-983f1562.pth",
            Self::ConvNext { size: ConvNextSize::Small, .. } => "convnext_small-0c510722.pth",
            Self::ConvNext { size: ConvNextSize::Base, .. } => "convnext_base-6075fbad.pth",
            Self::Unet { encoder, .. } | Self::DeepLabV3Plus { encoder, .. } | Self::DualUnet { encoder, .. } => {
                match (encoder, self.width().unwrap_or(64)) {
                    (Encoder::Resnet18, 64) => "resnet18-f37072fd.pth",
                    (Encoder::Resnet34, 64) => "resnet34-b627a593.pth",
                    (Encoder::Resnet50, 64) => "resnet50-0676ba61.pth",
                    _ => return Err(Error::NotPublished),
                }
            }
        };
        Ok(ImageNet { file })
    }

    fn width(&self) -> Option<usize> {
        match *self {
            Self::Unet { width, .. } | Self::DeepLabV3Plus { width, .. } | Self::DualUnet { width, .. } => width,
            Self::ConvNext { .. } => None,
        }
    }
}

/// A network with its weights.
#[expect(clippy::large_enum_variant, reason = "a program holds one or two, and a box is no module")]
#[derive(Module, Debug)]
pub enum Model {
    /// UNet.
    Unet(Unet),
    /// DeepLabV3+.
    DeepLab(DeepLab),
    /// UNet with two encoders.
    Dual(DualUnet),
    /// ConvNeXt.
    ConvNext(ConvNext),
}

impl Model {
    /// Logits of images (batch, channels, height, width): (batch, classes, height, width), or (batch, classes, 1, 1)
    /// where [`Network::output`] is [`Output::Image`].
    ///
    /// # Panics
    ///
    /// When the images have another number of channels than the network.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Unet(network) => network.forward(x),
            Self::DeepLab(network) => network.forward(x),
            Self::Dual(network) => network.forward(x),
            Self::ConvNext(network) => network.forward(x).unsqueeze_dims(&[2, 3]),
        }
    }

    /// The same network for images of half precision: convolutions compute in it, norms and their statistics stay in the
    /// precision that they have. Gradients flow to the weights of this network, which keep theirs.
    pub fn mixed(&self, precision: FloatDType) -> Self {
        self.clone().map(&mut Mix { precision, path: Vec::new() })
    }

    /// The same network for images of 64-bit floats, all of it: how far rounding takes one of 32 bits is seen beside it.
    pub fn precise(&self) -> Self {
        self.clone().map(&mut Precise::default())
    }

    /// The names under which the layers lie that ImageNet teaches, as the first of the names of weights.
    pub const ENCODERS: [&str; 4] = ["encoder", "optical", "sar", "features"];

    /// How many numbers training changes, as PyTorch counts them: the statistics of `BatchNorm2d` are none.
    pub fn parameters(&self) -> usize {
        let mut count = Count::default();
        self.visit(&mut count);
        count.sum
    }

    /// This network with the weights of a file that [`Self::save`] or PyTorch wrote. All of them must fit.
    pub fn load(self, path: &Path) -> Result<Self, Error> {
        Weights::open(path)?.load(self)
    }

    /// This network with an encoder that was trained on other imagery: ImageNet's weights, or those of a whole network
    /// of segmentation_models_pytorch. The first layer's are inflated to this network's channels; the decoder and the
    /// last layer of a classifier stay as they are.
    pub fn transfer(self, path: &Path) -> Result<Self, Error> {
        let weights = Weights::open(path)?;
        Ok(match self {
            Self::Unet(network) => Self::Unet(network.transfer(&weights)?),
            Self::DeepLab(network) => Self::DeepLab(network.transfer(&weights)?),
            Self::Dual(network) => Self::Dual(network.transfer(&weights)?),
            Self::ConvNext(network) => Self::ConvNext(network.transfer(&weights)?),
        })
    }

    /// What [`Self::transfer`] leaves in a file, by name, besides the last layer of a classifier.
    pub fn left(&self, path: &Path) -> Result<Vec<String>, Error> {
        let slots = crate::weights::slots(self);
        let encoder = |name: &str| match self {
            Self::ConvNext(_) => Some(name.to_owned()),
            _ => {
                let (first, rest) = name.split_once('.')?;
                Self::ENCODERS.contains(&first).then(|| rest.to_owned())
            }
        };
        let slots = slots.into_iter().filter_map(|(name, shape)| Some((encoder(&name)?, shape))).collect();
        Weights::open(path)?.beyond(&slots, "fc.")
    }

    /// Names of its weights, as PyTorch has them.
    pub fn names(&self) -> Vec<String> {
        crate::weights::slots(self).into_keys().collect()
    }

    /// Writes the weights as safetensors under PyTorch's names, in place of a file that is there.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        crate::weights::save(self, path)
    }
}

/// Casts what is not of a norm.
struct Mix {
    precision: FloatDType,
    path: Vec<bool>,
}

impl ModuleMapper for Mix {
    fn enter_module(&mut self, _: &str, container: &str) {
        self.path.push(matches!(container, "Struct:BatchNorm" | "Struct:ChannelNorm"));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.path.contains(&true) {
            return param;
        }
        param.map(|tensor| tensor.cast(self.precision))
    }
}

/// Casts all to 64-bit floats but running statistics, which clones of a network share: `BatchNorm` casts those when it reads them.
#[derive(Default)]
struct Precise {
    field: String,
}

impl ModuleMapper for Precise {
    fn enter_module(&mut self, name: &str, _: &str) {
        name.clone_into(&mut self.field);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.field.starts_with("running_") {
            return param;
        }
        param.map(|tensor| tensor.cast(FloatDType::F64))
    }
}

#[derive(Default)]
struct Count {
    sum: usize,
    field: String,
}

impl ModuleVisitor for Count {
    fn enter_module(&mut self, name: &str, _: &str) {
        name.clone_into(&mut self.field);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.field.starts_with("running_") {
            self.sum += param.lazy_shape().num_elements();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: Value) -> Result<Network, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn a_network_is_written_as_in_a_flow() {
        let unet = parse(json!({"architecture": "unet", "in_channels": 10})).expect("a network");
        let wanted = Network::Unet { encoder: Encoder::Resnet34, in_channels: 10, classes: 1, width: None };
        assert_eq!(unet, wanted);
        let dual = parse(json!({"architecture": "dual_unet", "encoder": "resnet18"})).expect("a network");
        assert_eq!((dual.in_channels(), dual.classes(), dual.output()), (12, 1, Output::Pixels));
        let deeplab = parse(json!({"architecture": "deeplabv3plus", "in_channels": 3})).expect("a network");
        assert!(matches!(deeplab, Network::DeepLabV3Plus { encoder: Encoder::Resnet50, .. }));
        let convnext = parse(json!({"architecture": "convnext", "size": "base", "in_channels": 3, "classes": 9}));
        let convnext = convnext.expect("a network");
        assert_eq!((convnext.classes(), convnext.output()), (9, Output::Image));
        for network in [unet, dual, deeplab, convnext] {
            assert_eq!(parse(serde_json::to_value(&network).expect("JSON")).expect("the same"), network);
        }
    }

    #[test]
    fn what_no_network_has_is_refused() {
        for (value, told) in [
            (json!({"architecture": "unet"}), "in_channels"),
            (json!({"architecture": "unet", "in_channels": 3, "decoder": 5}), "unknown field `decoder`"),
            (json!({"architecture": "convnext", "in_channels": 3, "encoder": "resnet18"}), "unknown field `encoder`"),
            (json!({"architecture": "vgg", "in_channels": 3}), "unknown variant `vgg`"),
            (json!({"architecture": "unet", "encoder": "resnet101", "in_channels": 3}), "unknown variant `resnet101`"),
        ] {
            let error = parse(value).expect_err("no network").to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn settings_out_of_bounds_are_told() {
        let told =
            |value: Value| parse(value).expect("a network").init(&Device::flex()).expect_err("refused").to_string();
        let unet = |in_channels: usize, classes: usize, width: usize| {
            told(json!({"architecture": "unet", "in_channels": in_channels, "classes": classes, "width": width}))
        };
        assert_eq!(unet(0, 1, 64), "`in_channels` of a network is 0, which must be from 1 to 1024");
        assert_eq!(unet(3, 1025, 64), "`classes` of a network is 1025, which must be from 1 to 1024");
        for width in [0, 2, 30, 260, usize::MAX] {
            let wanted = format!("`width` of a network is {width}, which must be a multiple of 4 from 4 to 256");
            assert_eq!(unet(3, 1, width), wanted);
        }
        let dual = told(json!({"architecture": "dual_unet", "sar_channels": 0}));
        assert_eq!(dual, "`sar_channels` of a network is 0, which must be from 1 to 1024");
    }

    #[test]
    fn the_schema_names_every_architecture_and_its_bounds() {
        let schema = serde_json::to_value(schemars::schema_for!(Network)).expect("JSON");
        let kinds = schema["oneOf"].as_array().expect("variants");
        let named: Vec<_> = kinds.iter().map(|kind| kind["properties"]["architecture"]["const"].clone()).collect();
        assert_eq!(named, ["unet", "deeplabv3plus", "dual_unet", "convnext"]);
        assert_eq!(kinds[0]["properties"]["in_channels"]["maximum"], 1024);
        assert_eq!(kinds[0]["required"], json!(["architecture", "in_channels"]));
    }

    #[test]
    fn a_seed_repeats_what_a_network_begins_with() {
        let network = parse(json!({"architecture": "unet", "encoder": "small", "in_channels": 3})).expect("a network");
        let device = Device::flex();
        let images = Tensor::<4>::ones([1, 3, 32, 32], &device);
        let output = |seed| {
            device.seed(seed);
            network.init(&device).expect("a network").forward(images.clone()).into_data()
        };
        assert_eq!(output(7), output(7));
        assert_ne!(output(7), output(8));
    }
}
