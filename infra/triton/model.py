"""A network of ONNX behind Triton's Python backend, where its own ONNX Runtime backend is not installed.

It is put beside the network as VERSION/model.py. Requests that the server's batcher gathers are run as one batch.
Parameters in config.pbtxt: `threads` (of a run; 1 by default), and for tests `delay_ms` (how long a run takes at least).
"""
import json
import os
import time

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("threads", 1))
        options.inter_op_num_threads = 1
        network = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        self.delay = int(parameters.get("delay_ms", 0)) / 1000

    def execute(self, requests):
        if self.delay:
            time.sleep(self.delay)
        inputs = [triton.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        together = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        outputs = self.session.run([self.output], {self.input: together})[0]
        responses, at = [], 0
        for tiles in inputs:
            part = np.ascontiguousarray(outputs[at : at + len(tiles)])
            responses.append(triton.InferenceResponse([triton.Tensor(self.output, part)]))
            at += len(tiles)
        return responses
