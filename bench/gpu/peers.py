"""PyTorch and ONNX Runtime beside gpu_bench: peers.py DEVICE FOLDER [BATCH [STEPS [SIDE]]] [--peers NAME,...].

The same network, weights, images and loss as `tasks/nets/examples/gpu_bench.rs`, which has run into FOLDER before. A line of JSON
a measurement. Before any of them the logits that Swath left in FOLDER are held against PyTorch in 64-bit floats.

Peers: `eager` (as PyTorch is without thought), `channels_last` (eager, in the layout that PyTorch advises for convolutions),
`compile` (torch.compile of that), `onnxruntime`. Mixed precision is autocast, with GradScaler where it is f16.
"""
import argparse
import contextlib
import json
import os
import statistics
import sys
import time

import numpy as np
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torchvision.ops import sigmoid_focal_loss

BANDS, WARM, COMPARED = 10, 3, 2
PRECISIONS = {"f32": None, "bf16": torch.bfloat16, "f16": torch.float16}
# How far logits may be from those in 64-bit floats, of their length.
BOUNDS = {"f32": 5e-3, "bf16": 0.1, "f16": 0.1}

parser = argparse.ArgumentParser()
parser.add_argument("device")
parser.add_argument("folder")
for name, usual in (("batch", 32), ("steps", 30), ("side", 256)):
    parser.add_argument(name, nargs="?", type=int, default=usual)
parser.add_argument("--peers", default="eager,channels_last,compile,onnxruntime")
asked = parser.parse_args()
device, gpu = torch.device(asked.device), asked.device != "cpu"


def noise(count, seed):
    x = np.arange(count, dtype=np.uint32) + np.uint32(seed)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def tensor(values, channels):
    return torch.from_numpy(values.reshape(asked.batch, channels, asked.side, asked.side))


pixels = asked.batch * asked.side * asked.side
images = tensor(((noise(pixels * BANDS, 0) / 4294967296.0 - 0.5) * 12**0.5).astype("f4"), BANDS)
targets = tensor((noise(pixels, 0x9E3779B9) < 429496730).astype("f4"), 1)
dice = smp.losses.DiceLoss("binary")


def network():
    model = smp.Unet("resnet34", in_channels=BANDS, classes=1, encoder_weights=None)
    model.load_state_dict(load_file(os.path.join(asked.folder, "1/weights.safetensors")))
    return model.to(device)


def sync():
    if gpu:
        torch.cuda.synchronize()


def measure(bench, peer, precision, step, **more):
    seconds = []
    for _ in range(WARM + asked.steps):
        began = time.perf_counter()
        step()
        sync()
        seconds.append(time.perf_counter() - began)
    counted = seconds[WARM:]
    median = statistics.median_high(counted)
    line = {"bench": bench, "peer": peer, "device": asked.device, "precision": precision, "batch": asked.batch, "side": asked.side,
            "steps": asked.steps, "images_per_second": asked.batch / median, "median_seconds": median,
            "least_seconds": min(counted), "first_seconds": seconds[0]}
    print(json.dumps(line | {name: value() for name, value in more.items()}), flush=True)


def check():
    """Swath's logits and PyTorch's own, against PyTorch in 64 bits."""
    model, some = network().eval().double(), images[:COMPARED].to(device)
    with torch.no_grad():
        wanted = model(some.double()).cpu().numpy().ravel()
        model = model.float()
        for precision, half in PRECISIONS.items():
            with autocast(half):
                own = model(some).double().cpu().numpy().ravel()
            found = np.fromfile(os.path.join(asked.folder, f"logits.{precision}"), "<f4")
            off, peers = (float(np.linalg.norm(x - wanted) / np.linalg.norm(wanted)) for x in (found, own))
            print(json.dumps({"bench": "logits", "precision": precision, "swath_off": off, "pytorch_off": peers}), flush=True)
            if not off <= BOUNDS[precision]:
                sys.exit(f"peers.py: the logits of {precision} are {off:.2e} off")


def autocast(half):
    return torch.autocast(device.type, half) if half else contextlib.nullcontext()


def prepared(peer):
    layout = torch.contiguous_format if peer == "eager" else torch.channels_last
    model = network().to(memory_format=layout)
    return (torch.compile(model) if peer == "compile" else model), layout


def inference(peer, precision, half):
    model, layout = prepared(peer)
    model.eval()
    resident = images.to(device, memory_format=layout)
    pinned = images.pin_memory() if gpu else images

    def forward(x):
        with torch.inference_mode(), autocast(half):
            return model(x)

    measure("inference", peer, precision, lambda: forward(resident))
    measure("inference from and to memory", peer, precision,
            lambda: forward(pinned.to(device, memory_format=layout, non_blocking=True)).float().cpu())


def training(peer, precision, half):
    model, layout = prepared(peer)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=gpu)
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
    x, y, losses = images.to(device, memory_format=layout), targets.to(device), []

    def step():
        optimiser.zero_grad(set_to_none=True)
        with autocast(half):
            logits = model(x)
        logits = logits.float()
        focal = sigmoid_focal_loss(logits, y * 0.95 + 0.025, 0.25, 2.0, reduction="mean")
        loss = focal + 0.5 * dice(logits, y)
        losses.append(loss.item())
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()

    measure("training", peer, precision, step, first_loss=lambda: losses[0], last_loss=lambda: losses[-1])


def onnxruntime():
    import onnxruntime as ort

    provider = "CUDAExecutionProvider" if gpu else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        return skip("onnxruntime", f"onnxruntime {ort.__version__} here has no {provider}: install onnxruntime-gpu")
    path = os.path.join(asked.folder, "1/model.onnx")
    torch.onnx.export(network().eval().cpu(), (images[:1],), path, input_names=["image"], output_names=["logits"],
                      dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}}, dynamo=False)
    session = ort.InferenceSession(path, providers=[provider])
    if session.get_providers()[0] != provider:
        return skip("onnxruntime", f"{provider} could not be started")
    host = images.numpy()
    measure("inference from and to memory", "onnxruntime", "f32", lambda: session.run(None, {"image": host}))
    kind = "cuda" if gpu else "cpu"
    binding = session.io_binding()
    binding.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(host, kind, device.index or 0))
    binding.bind_output("logits", kind, device.index or 0)
    measure("inference", "onnxruntime", "f32", lambda: session.run_with_iobinding(binding))


def skip(peer, reason):
    print(json.dumps({"bench": "skipped", "peer": peer, "reason": reason}), flush=True)


check()
for peer in asked.peers.split(","):
    try:
        if peer == "onnxruntime":
            onnxruntime()
            continue
        for precision, half in PRECISIONS.items():
            inference(peer, precision, half)
            training(peer, precision, half)
    except (ImportError, RuntimeError, OSError) as error:
        # One peer that this machine cannot run does not take the others along.
        skip(peer, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
