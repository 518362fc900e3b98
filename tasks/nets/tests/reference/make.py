"""Makes what tests/nets compares with: `make.py FOLDER`. Everything is seeded.

    NAME/network.json           the network as a flow writes it, and how many parameters PyTorch counts
    NAME/weights.safetensors    or weights.pth: random weights, and batch-norm statistics of random images
    NAME/images.safetensors     input_0, output_0, exact_0, input_1, ...: what PyTorch gives for them, in double precision too
    step/...                    the same for a step of training: gradients, and statistics after it
    imagenet/...                a ResNet and a ConvNeXt as torchvision saves them, first layers as smp inflates them
    evil/...                    pickles that run a program when Python unpickles them
    losses.safetensors          losses of random logits, and their gradients
    urls.json                   where torchvision has its ImageNet weights
"""

import copy
import json
import os
import pickle
import sys
from pathlib import Path

import torch
import torchvision
from networks import build
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders._utils import patch_first_conv
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import sigmoid_focal_loss

CASES = {
    "unet-resnet18": (dict(architecture="unet", encoder="resnet18", in_channels=3), [(2, 64, 64), (1, 96, 160)]),
    "unet-resnet34": (dict(architecture="unet", in_channels=10, classes=3), [(1, 128, 128), (1, 75, 101)]),
    "unet-resnet50": (dict(architecture="unet", encoder="resnet50", in_channels=1), [(1, 64, 96)]),
    "unet-small": (dict(architecture="unet", encoder="small", in_channels=2, classes=2), [(3, 64, 64), (1, 33, 250)]),
    "unet-small-24": (dict(architecture="unet", encoder="small", in_channels=6, width=24), [(2, 96, 64)]),
    "deeplab-resnet50": (dict(architecture="deeplabv3plus", in_channels=10, classes=4), [(1, 64, 96), (1, 256, 256)]),
    "deeplab-small": (dict(architecture="deeplabv3plus", encoder="small", in_channels=3), [(1, 640, 640), (2, 64, 64)]),
    "dual-resnet18": (dict(architecture="dual_unet", encoder="resnet18"), [(1, 64, 64), (2, 96, 64)]),
    "dual-small": (dict(architecture="dual_unet", encoder="small", optical_channels=4, classes=3), [(2, 64, 96)]),
    "convnext-tiny": (dict(architecture="convnext", in_channels=10, classes=2), [(2, 64, 64), (1, 96, 70)]),
    "convnext-small": (dict(architecture="convnext", size="small", in_channels=3, classes=5), [(1, 64, 64)]),
    "convnext-base": (dict(architecture="convnext", size="base", in_channels=4, classes=7), [(1, 64, 64)]),
}

SAFETENSORS = ("unet-resnet18", "unet-small", "convnext-tiny")
# Large ones are kept in half precision, which PyTorch computes with as well: as float32 of the same values.
HALF = ("unet-resnet34", "unet-resnet50", "deeplab-resnet50", "dual-resnet18", "convnext-small", "convnext-base")


def in_channels(network):
    return network.get("in_channels") or network.get("optical_channels", 10) + network.get("sar_channels", 2)


def randomise(model, channels):
    """Weights that leave no layer trivial, and batch-norm statistics of images that went through.

    Residual blocks add less than they pass on, as in trained networks: else PyTorch's own rounding errors grow beyond what
    is compared here (`exact_0`, in double precision, tells them).
    """
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.1)
        if hasattr(module, "layer_scale"):
            nn.init.uniform_(module.layer_scale, 0.1, 1.0)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    for block in model.modules():
        if isinstance(block, (BasicBlock, Bottleneck)):
            nn.init.uniform_((block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight, 0.1, 0.4)
    model.train()
    with torch.no_grad():
        model(torch.randn(8, channels, 96, 96))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model.eval()


def case(folder, name, network, sizes):
    folder.mkdir()
    channels = in_channels(network)
    model = randomise(build(network), channels)
    state = model.state_dict()
    if name in HALF:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        model.load_state_dict(state)
    if name in SAFETENSORS:
        save_file(state, folder / "weights.safetensors")
    else:
        torch.save(state, folder / "weights.pth")
    images = {}
    for index, (batch, height, width) in enumerate(sizes):
        x = torch.randn(batch, channels, height, width)
        with torch.no_grad():
            images[f"input_{index}"], images[f"output_{index}"] = x, model(x)
            images[f"exact_{index}"] = copy.deepcopy(model).double()(x.double()).float()
    save_file(images, folder / "images.safetensors")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    (folder / "network.json").write_text(json.dumps(dict(network=network, parameters=parameters)))


def step(folder):
    """Gradients of a step of training, and what it makes of the batch-norm statistics."""
    folder.mkdir()
    network = dict(architecture="unet", encoder="small", in_channels=4)
    model = randomise(build(network), 4)
    save_file(model.state_dict(), folder / "weights.safetensors")
    model.train()
    x, wanted = torch.randn(4, 4, 64, 64), torch.randn(4, 1, 64, 64)
    loss = ((model(x) - wanted) ** 2).mean()
    loss.backward()
    tensors = dict(input=x, wanted=wanted, loss=loss.detach().reshape(1))
    tensors |= {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}
    tensors |= {f"after.{name}": buffer for name, buffer in model.named_buffers() if "running" in name}
    save_file(tensors, folder / "step.safetensors")
    (folder / "network.json").write_text(json.dumps(network))


def imagenet(folder):
    """What a user downloads from torchvision (here with random weights), and what smp makes of its first layer."""
    folder.mkdir()
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), folder / "resnet18.pth")
    torch.save(resnet.state_dict(), folder / "resnet18-legacy.pth", _use_new_zipfile_serialization=False)
    wrapped = {f"module.{name}": value for name, value in resnet.state_dict().items()}
    optimizer = torch.optim.AdamW(resnet.parameters()).state_dict()
    torch.save(dict(epoch=3, state_dict=wrapped, optimizer=optimizer), folder / "resnet18-checkpoint.pth")
    torch.save(dict(model=wrapped, model_ema=dict(wrapped)), folder / "resnet18-twice.pth")
    convnext = torchvision.models.convnext_tiny(weights=None, num_classes=1000).half()
    torch.save(convnext.state_dict(), folder / "convnext_tiny.pth")
    inflated = {}
    for channels in (1, 2, 3, 4, 10, 12):
        patched = copy.deepcopy(resnet)
        patch_first_conv(patched, channels)
        inflated[f"resnet18.{channels}"] = patched.conv1.weight.detach()
        patched = copy.deepcopy(convnext)
        patch_first_conv(patched, channels)
        inflated[f"convnext_tiny.{channels}"] = patched.features[0][0].weight.detach()
    inflated["resnet18.last"] = resnet.state_dict()["layer4.1.bn2.weight"]
    save_file({name: value.clone() for name, value in inflated.items()}, folder / "inflated.safetensors")


class Evil:
    """Runs `touch` when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def evil(folder):
    folder.mkdir()
    marker = Evil("ran")
    (folder / "plain.pth").write_bytes(pickle.dumps({"conv1.weight": marker}, protocol=2))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "evil": marker}, folder / "zip.pth")
    torch.save({"conv1.weight": marker}, folder / "legacy.pth", _use_new_zipfile_serialization=False)


def losses(file):
    """Values and gradients, for one class with ambiguous pixels, three classes of which the last is absent, and images; of all
    pixels, and of a part, which PyTorch is given alone."""

    def focal(logits, targets, smoothing=0.05):
        return sigmoid_focal_loss(logits, targets * (1 - smoothing) + smoothing / 2, 0.25, 2.0, reduction="mean")

    def dice(logits, targets):
        if logits.shape[1] == 1:
            return DiceLoss("binary")(logits, targets)
        return DiceLoss("multiclass")(logits, targets.argmax(dim=1))

    one = torch.randint(0, 3, (3, 1, 17, 20)) / 2
    three = functional.one_hot(torch.randint(0, 2, (3, 9, 14)), 3).permute(0, 3, 1, 2).float()
    kinds = functional.one_hot(torch.randint(0, 5, (7,)), 5).float()
    cases = dict(
        focal=(focal, one),
        dice=(dice, one),
        dice_of_three=(dice, three),
        focal_dice=(lambda logits, targets: focal(logits, targets) + 0.5 * dice(logits, targets), one),
        cross_entropy=(lambda *given: functional.cross_entropy(*given, label_smoothing=0.1), kinds[..., None, None]),
        cross_entropy_of_pixels=(functional.cross_entropy, three),
    )
    tensors = {}
    for name, (loss, targets) in cases.items():
        for part in ("", "_of_a_part"):
            logits = (3 * torch.randn(targets.shape)).requires_grad_()
            valid = torch.ones_like(targets[:, :1])
            if part:
                valid = (torch.rand(valid.shape) < 0.6).float()
            # Pixels that take part, in a row.
            chosen = lambda x: x.movedim(1, -1)[valid[:, 0] > 0].T[None, :, None, :]
            value = loss(chosen(logits), chosen(targets))
            value.backward()
            given = torch.where(valid > 0, targets, torch.nan).contiguous()
            tensors |= {f"{name}{part}.logits": logits.detach(), f"{name}{part}.targets": given}
            tensors |= {f"{name}{part}.valid": valid}
            tensors |= {f"{name}{part}.loss": value.detach().reshape(1), f"{name}{part}.gradient": logits.grad}
    save_file(tensors, file)


def urls(file):
    models = torchvision.models
    published = {f"resnet{depth}": getattr(models, f"ResNet{depth}_Weights").IMAGENET1K_V1 for depth in (18, 34, 50)}
    for size in ("Tiny", "Small", "Base"):
        published[f"convnext_{size.lower()}"] = getattr(models, f"ConvNeXt_{size}_Weights").IMAGENET1K_V1
    file.write_text(json.dumps({name: weights.url for name, weights in published.items()}))


def main():
    folder = Path(sys.argv[1])
    for seed, (name, (network, sizes)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        case(folder / name, name, network, sizes)
    torch.manual_seed(1000)
    step(folder / "step")
    imagenet(folder / "imagenet")
    evil(folder / "evil")
    losses(folder / "losses.safetensors")
    urls(folder / "urls.json")


main()
