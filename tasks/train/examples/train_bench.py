"""A step of training in PyTorch, measured: train_bench.py [STEPS [THREADS]]. The peer of the example train_bench."""

import json
import os
import resource
import statistics
import sys
import time

import segmentation_models_pytorch as smp
import torch
from torchvision.ops import sigmoid_focal_loss

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
threads = int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count()
torch.set_num_threads(threads)
torch.manual_seed(1)
model = smp.Unet("resnet34", in_channels=10, classes=1, encoder_weights=None).train()
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
images, targets = torch.randn(4, 10, 256, 256), (torch.rand(4, 1, 256, 256) < 0.1).float()
dice = smp.losses.DiceLoss("binary")
seconds = []
# The first step allocates, and is not counted.
for step in range(steps + 1):
    began = time.perf_counter()
    logits = model(images)
    loss = sigmoid_focal_loss(logits, targets * 0.95 + 0.025, 0.25, 2.0, reduction="mean") + 0.5 * dice(logits, targets)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    if step:
        seconds.append(time.perf_counter() - began)
print(json.dumps({
    "bench": "training step", "peer": "pytorch", "steps": steps, "threads": threads,
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "median_seconds": statistics.median(seconds), "least_seconds": min(seconds),
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
