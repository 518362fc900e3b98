"""A training in PyTorch: pytorch.py SETTINGS CHIPS DATASET WEIGHTS. Tells loss and learning rate of every epoch as JSON.

The judge of tasks/train: PyTorch's AdamW, schedulers, clipping and losses on the chips of a dataset, one batch an epoch.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

sys.path.insert(0, str(Path(__file__).parents[2] / "nets/tests/reference"))
from networks import build

settings, dataset = (json.loads(Path(sys.argv[i]).read_text()) for i in (1, 3))
folder = Path(sys.argv[2])
chips = json.loads((folder / "manifest.json").read_text())
shards = [load_file(folder / shard["file"]) for shard in chips["shards"]]


def side(name):
    images, labels = [], []
    for ref in dataset["sides"][name]["chips"]:
        place = chips["chips"][ref["chip"]]
        shard = shards[place["shard"]]
        images.append(shard["image"][place["at"]])
        labels.append(shard["label"][place["at"]])
    mean, std = (torch.tensor([band[key] for band in dataset["statistics"]])[:, None, None].float() for key in ("mean", "std"))
    return torch.nan_to_num((torch.stack(images) - mean) / std, nan=0.0), torch.stack(labels)[:, None]


def loss_of(logits, labels):
    known = ~labels.isnan()
    logits, labels = logits[known][None, None], labels[known][None, None]
    loss = settings.get("loss", dict(kind="focal_dice"))
    smoothing = loss.get("smoothing", 0.05)
    smooth = labels * (1 - smoothing) + smoothing / 2
    if loss["kind"] == "cross_entropy":
        return functional.binary_cross_entropy_with_logits(logits, smooth)
    focal = sigmoid_focal_loss(logits, smooth, 0.25, 2.0, reduction="mean")
    return focal + 0.5 * DiceLoss("binary")(logits, labels)


torch.set_num_threads(1)
model = build(settings["network"])
missing, unexpected = model.load_state_dict(load_file(sys.argv[4]), strict=False)
assert not unexpected and all("num_batches_tracked" in name for name in missing), (missing, unexpected)
rate = settings["optimiser"]["learning_rate"]
optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=settings["optimiser"]["weight_decay"])
schedule, epochs = settings["schedule"], settings["epochs"]
if schedule["kind"] == "cosine":
    rise = schedule["warm_up"]
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 1 / rise, 1.0, rise - 1),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs - rise, schedule["least"]),
        ],
        [rise],
    )
elif schedule["kind"] == "plateau":
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, "min", schedule["factor"], schedule["patience"])
else:
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)

train, validation = side("train"), side("validation")
told = []
for epoch in range(epochs):
    model.train()
    loss = loss_of(model(train[0]), train[1])
    optimiser.zero_grad()
    loss.backward()
    if settings.get("clip", 1.0) is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.get("clip", 1.0))
    used = optimiser.param_groups[0]["lr"]
    optimiser.step()
    model.eval()
    with torch.no_grad():
        judged = loss_of(model(validation[0]), validation[1]).item()
    scheduler.step(judged) if schedule["kind"] == "plateau" else scheduler.step()
    told.append(dict(learning_rate=used, train_loss=loss.item(), validation_loss=judged))
print(json.dumps(told))
