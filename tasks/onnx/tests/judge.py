"""Judges a model folder by what has nothing to do with Swath: ONNX's own checker, ONNX Runtime from Python, and Triton's
definition of its configuration.

judge.py MODEL INPUT OUTPUT: both of float32, INPUT as many images as the network takes, OUTPUT what it should make of them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

folder, given, wanted = map(Path, sys.argv[1:])
manifest = json.loads((folder / "manifest.json").read_text())
path = folder / manifest["file"]

model = onnx.load(path, load_external_data=False)
onnx.checker.check_model(str(path), full_check=True)
inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def ends(values):
    return [[v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]] for v in values]


session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
(source,), (sink,) = session.get_inputs(), session.get_outputs()
images = np.fromfile(given, np.float32).reshape(-1, *source.shape[1:])
logits = np.fromfile(wanted, np.float32).reshape(-1, *sink.shape[1:])
difference = 0.0
for batch in range(1, len(images) + 1):
    (found,) = session.run([sink.name], {source.name: images[:batch]})
    assert found.shape == (batch, *logits.shape[1:]), found.shape
    difference = max(difference, float(np.abs(found - logits[:batch]).max()))

config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())

print(
    json.dumps(
        {
            "opset": {entry.domain: entry.version for entry in model.opset_import},
            "external": [t.name for t in model.graph.initializer if t.external_data],
            "operators": sorted({node.op_type for node in model.graph.node}),
            "weights": sorted(t.name for t in model.graph.initializer),
            "ends": [ends(inferred.graph.input), ends(inferred.graph.output)],
            "difference": difference,
            "largest": float(np.abs(logits).max()),
            "triton": {
                "name": config.name,
                "platform": config.platform,
                "max_batch_size": config.max_batch_size,
                "ends": [[[e.name, e.data_type, list(e.dims)] for e in side] for side in (config.input, config.output)],
                "versions": list(config.version_policy.specific.versions),
                "batches": config.HasField("dynamic_batching"),
            },
        }
    )
)
