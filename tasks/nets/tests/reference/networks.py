"""The networks of this crate as PyTorch has them, made of a `Network` as a flow writes it."""

import segmentation_models_pytorch as smp
import torch
import torchvision
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import nn
from torchvision.models.resnet import BasicBlock

# The order of sums, and with it the last digits, depend on it.
torch.set_num_threads(1)


class SmallEncoder(ResNetEncoder):
    """A ResNet of one block a stage and any width: smp's encoder, its layers made anew."""

    def __init__(self, in_channels, width):
        channels = [in_channels, width, width, 2 * width, 4 * width, 8 * width]
        super().__init__(out_channels=channels, block=BasicBlock, layers=[1, 1, 1, 1])
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.inplanes = width
        for stage in range(4):
            layer = self._make_layer(BasicBlock, width << stage, 1, stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", layer)


def encoder(network, in_channels, output_stride=32):
    name = network.get("encoder", "resnet34")
    if name != "small":
        assert "width" not in network
        return smp.encoders.get_encoder(name, in_channels=in_channels, weights=None, output_stride=output_stride), 64
    width = network.get("width", 16)
    small = SmallEncoder(in_channels, width)
    if output_stride != 32:
        small.make_dilated(output_stride)
    return small, width


def unet_decoder(channels, width):
    return UnetDecoder(channels, [4 * width, 2 * width, width, max(width // 2, 8), max(width // 4, 8)])


class Unet(nn.Module):
    """smp's `Unet` of smp's parts, for an encoder that smp has no name for."""

    def __init__(self, network):
        super().__init__()
        self.encoder, width = encoder(network, network["in_channels"])
        self.decoder = unet_decoder(self.encoder.out_channels, width)
        self.segmentation_head = SegmentationHead(max(width // 4, 8), network.get("classes", 1))

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)))


class DeepLab(nn.Module):
    """smp's `DeepLabV3Plus` of smp's parts, for an encoder that smp has no name for."""

    def __init__(self, network):
        super().__init__()
        self.encoder, width = encoder(network, network["in_channels"], output_stride=16)
        self.decoder = DeepLabV3PlusDecoder(
            self.encoder.out_channels, 5, 4 * width, (12, 24, 36), 16, aspp_separable=True, aspp_dropout=0.5
        )
        self.segmentation_head = SegmentationHead(4 * width, network.get("classes", 1), kernel_size=1, upsampling=4)

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)))


class DualUnet(nn.Module):
    """Two of smp's encoders, and its UNet decoder over the features of both."""

    def __init__(self, network):
        super().__init__()
        self.split = [network.get("optical_channels", 10), network.get("sar_channels", 2)]
        (self.optical, width), (self.sar, _) = (encoder(network, channels) for channels in self.split)
        channels = [a + b for a, b in zip(self.optical.out_channels, self.sar.out_channels)]
        self.decoder = unet_decoder(channels, width)
        self.segmentation_head = SegmentationHead(max(width // 4, 8), network.get("classes", 1))

    def forward(self, x):
        optical, sar = x.split(self.split, dim=1)
        features = [torch.cat(pair, dim=1) for pair in zip(self.optical(optical), self.sar(sar))]
        return self.segmentation_head(self.decoder(features))


def convnext(network):
    size, classes, channels = network.get("size", "tiny"), network.get("classes", 1), network["in_channels"]
    model = getattr(torchvision.models, f"convnext_{size}")(weights=None, num_classes=classes)
    if channels != 3:
        first = model.features[0][0]
        model.features[0][0] = nn.Conv2d(channels, first.out_channels, 4, stride=4)
    return model


def build(network):
    architecture, encoder_name = network["architecture"], network.get("encoder")
    shape = dict(in_channels=network.get("in_channels"), classes=network.get("classes", 1), encoder_weights=None)
    if architecture == "unet":
        return Unet(network) if encoder_name == "small" else smp.Unet(encoder_name or "resnet34", **shape)
    if architecture == "deeplabv3plus":
        return DeepLab(network) if encoder_name == "small" else smp.DeepLabV3Plus(encoder_name or "resnet50", **shape)
    if architecture == "dual_unet":
        return DualUnet(network)
    assert architecture == "convnext"
    return convnext(network)
