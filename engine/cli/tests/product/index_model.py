"""A model folder whose network is a threshold on NDWI, for a landscape that is known: index_model.py FOLDER"""

import json
import sys
from pathlib import Path

import onnx
from blake3 import blake3
from onnx import TensorProto, helper

folder = Path(sys.argv[1])
shape = ["batch", 1, "rows", "columns"]
image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "logits"))
numbers = [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in (("above", 0.1), ("steep", 40.0))]
nodes = [helper.make_node("Sub", ["image", "above"], ["beyond"]), helper.make_node("Mul", ["beyond", "steep"], ["logits"])]
graph = helper.make_graph(nodes, "index", [image], [logits], numbers)
network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
(folder / "1").mkdir(parents=True)
(folder / "1/model.onnx").write_bytes(network)
manifest = {
    "name": "index", "version": 1, "about": "NDWI above 0.1", "file": "1/model.onnx",
    "digest": f"blake3:{blake3(network).hexdigest()}", "bands": [{"name": "NDWI"}],
    "normalisation": {"method": "none", "fill": -1.0}, "input": {"name": "image", "channels": 1},
    "output": {"name": "logits", "channels": 1}, "activation": "logits", "tile": {"size": 256, "multiple_of": 1},
    "classes": ["water"], "gsd": 10.0,
}
(folder / "manifest.json").write_text(json.dumps(manifest))
