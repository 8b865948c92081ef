"""What a model needs beside `model.onnx` to be served by Triton.

`model.py` is for the Python backend, which the pip-installed server has; a cluster's Triton runs the same file in its
own onnxruntime backend and needs only the configuration.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import onnx

from services.common.errors import CorruptState, PermanentError

MODEL_PY = Path(__file__).with_name("model.py")
"""To be copied next to `model.onnx` for the Python backend."""

BACKENDS = ("python", "onnxruntime")

_TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.INT8: "TYPE_INT8",
    onnx.TensorProto.INT16: "TYPE_INT16",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.UINT16: "TYPE_UINT16",
    onnx.TensorProto.UINT32: "TYPE_UINT32",
    onnx.TensorProto.UINT64: "TYPE_UINT64",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}


def config_pbtxt(name: str, onnx_path: Path, backend: str, kind: str = "KIND_CPU") -> str:
    """Triton's configuration of model `name`, with inputs and outputs as the ONNX file declares them.

    `max_batch_size` is 0: every dimension is the model's own, -1 where it varies, because candidates are padded per
    request and Triton's batching would make all inputs share their first dimension. One instance, on the CPU with one
    thread: the net is small, and a second thread would only take the core from the next request. `kind`: KIND_CPU, or
    KIND_GPU for one instance on each GPU.

    Raises CorruptState when the file is not an ONNX model, PermanentError for another backend than BACKENDS and for a
    tensor that Triton cannot carry.
    """
    if backend not in BACKENDS:
        raise PermanentError(f"backend {backend!r} is none of {', '.join(BACKENDS)}")
    try:
        graph = onnx.load(str(onnx_path), load_external_data=False).graph
    except Exception as error:  # Protobuf's error has no public base class.
        raise CorruptState(f"{onnx_path} is not an ONNX model: {error}") from error
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    lines = [f"name: {json.dumps(name)}", f'backend: "{backend}"', "max_batch_size: 0"]
    lines += [_tensors("input", inputs), _tensors("output", graph.output)]
    lines.append(f"instance_group [ {{ count: 1 kind: {kind} }} ]")
    if backend == "onnxruntime":
        lines += [_parameter("intra_op_thread_count", "1"), _parameter("inter_op_thread_count", "1")]
    return "\n".join(lines) + "\n"


def _tensors(field: str, values: Iterable[onnx.ValueInfoProto]) -> str:
    return f"{field} [\n" + ",\n".join(_tensor(value) for value in values) + "\n]"


def _tensor(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = ", ".join(str(dim.dim_value) if dim.dim_value > 0 else "-1" for dim in tensor.shape.dim)
    if tensor.elem_type not in _TYPES or not dims:
        raise PermanentError(f"tensor {value.name} has a type or shape that Triton cannot carry")
    return f"  {{ name: {json.dumps(value.name)} data_type: {_TYPES[tensor.elem_type]} dims: [ {dims} ] }}"


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
