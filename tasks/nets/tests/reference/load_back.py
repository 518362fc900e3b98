"""Loads what Swath saved, strictly: `load_back.py REFERENCE SAVED` prints how far outputs are from the reference's."""

import json
import sys
from pathlib import Path

import torch
from networks import build
from safetensors.torch import load_file

reference, saved = Path(sys.argv[1]), Path(sys.argv[2])
differences = {}
for file in sorted(saved.glob("*.safetensors")):
    network = json.loads((reference / file.stem / "network.json").read_text())["network"]
    model = build(network).eval()
    model.load_state_dict(load_file(file), strict=True)
    images = load_file(reference / file.stem / "images.safetensors")
    with torch.no_grad():
        differences[file.stem] = (model(images["input_0"]) - images["output_0"]).abs().max().item()
print(json.dumps(differences))
