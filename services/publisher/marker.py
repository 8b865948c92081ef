"""The model that a Triton pod's readiness probe asks for: loaded while the pod has every release and answers right.

Which releases those are changes every minute, and a probe has one path, so they cannot be asked for by name. A restart
of the server takes the marker away with everything else, which a condition written by somebody else would not do.
"""

import json
from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

NAME = "freshrank-ready"
"""The probe is GET /v2/models/freshrank-ready/ready."""

_MODEL_PY = b"""class TritonPythonModel:
    def execute(self, requests):
        raise NotImplementedError("only its being loaded means something")
"""


def parts(backend: str) -> tuple[str, Mapping[str, bytes]]:
    """Configuration (JSON) and files of the marker: they go with the load request, the model repository is not used.

    >>> sorted(parts("python")[1])
    ['file:1/model.py']
    """
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    config = {
        "backend": backend,
        "max_batch_size": 0,
        "input": [{"name": "x", **tensor}],
        "output": [{"name": "y", **tensor}],
        "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
    }
    files = {"file:1/model.py": _MODEL_PY} if backend == "python" else {"file:1/model.onnx": _identity()}
    return json.dumps(config), files


def _identity() -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "marker", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
