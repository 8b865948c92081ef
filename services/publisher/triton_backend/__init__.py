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


def config_pbtxt(name: str, onnx_path: Path, backend: str, kind: str = "KIND_CPU", together: int = 0) -> str:
    """Triton's configuration of model `name`, with inputs and outputs as the ONNX file declares them.

    `together`: rows of several requests that are answered at once. 0 for rankers: every dimension is the model's own,
    -1 where it varies, because candidates are padded per request and Triton's batching would make all inputs share
    their first dimension. Above 0 for encoders, whose inputs do: requests of equal width are put together, those of
    priority 1 before those of priority 2.

    One instance, on the CPU with one thread: the net is small, and a second thread would only take the core from the
    next request. `kind`: KIND_CPU, or KIND_GPU for one instance on each GPU.

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
    lines = [f"name: {json.dumps(name)}", f'backend: "{backend}"', f"max_batch_size: {together}"]
    shared = int(together > 0)
    lines += [_tensors("input", inputs, shared), _tensors("output", graph.output, shared)]
    if together:
        lines.append("dynamic_batching { priority_levels: 2 default_priority_level: 1 }")
    lines.append(f"instance_group [ {{ count: 1 kind: {kind} }} ]")
    if backend == "onnxruntime":
        lines += [_parameter("intra_op_thread_count", "1"), _parameter("inter_op_thread_count", "1")]
    return "\n".join(lines) + "\n"


def _tensors(field: str, values: Iterable[onnx.ValueInfoProto], shared: int) -> str:
    return f"{field} [\n" + ",\n".join(_tensor(value, shared) for value in values) + "\n]"


def _tensor(value: onnx.ValueInfoProto, shared: int) -> str:
    """`shared`: leading dimensions that are Triton's to count."""
    tensor = value.type.tensor_type
    dims = ", ".join(str(dim.dim_value) if dim.dim_value > 0 else "-1" for dim in tensor.shape.dim[shared:])
    if tensor.elem_type not in _TYPES or not dims:
        raise PermanentError(f"tensor {value.name} has a type or shape that Triton cannot carry")
    return f"  {{ name: {json.dumps(value.name)} data_type: {_TYPES[tensor.elem_type]} dims: [ {dims} ] }}"


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
