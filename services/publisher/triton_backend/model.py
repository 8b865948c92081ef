"""Runs `model.onnx` inside Triton's Python backend; copied beside it into the model repository.

It knows no model: names, types and shapes come from the ONNX file, so the same file serves every release. Triton
runs it in a process of its own whose packages are onnxruntime and numpy below 2; nothing of this project is there.

What a load costs is mostly the start of those packages, in the minute of calls that other models answer meanwhile. A
thread does it that gives way to whoever answers; the thread that will answer waits for it and keeps its own policy.
"""

import contextlib
import importlib
import os
import threading
from collections.abc import Callable
from typing import Any


def giving_way(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises, done by a thread of the policy SCHED_IDLE where the system has it."""
    done: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with contextlib.suppress(AttributeError, OSError):
                os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
            done.append(work())
        except BaseException as error:  # Raised again by the caller's thread.
            failed.append(error)

    thread = threading.Thread(target=run, name="load")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


# onnxruntime reports to its maker as soon as it is imported, unless this is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
onnxruntime: Any = giving_way(lambda: importlib.import_module("onnxruntime"))


def session_of(path: str) -> Any:
    """A session with one thread, the caller's; whatever onnxruntime raises about the file is raised."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TritonPythonModel:
    """One instance of one model; Triton calls its methods by these names."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session of the version that is being loaded; an invalid file fails the load."""
        # Only Triton's own process has this module, and importing this file must not need it.
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self._session = giving_way(lambda: session_of(path))
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own: shapes differ, and one that fails must not take others along."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Free the session when the model is unloaded."""
        del self._session

    def _answer(self, request: Any) -> Any:
        wanted = [name for name in self._outputs if name in request.requested_output_names()]
        try:
            feed = {name: self._array(request, name) for name in self._inputs}
            values = self._session.run(wanted, feed)
        except Exception as error:  # Whatever onnxruntime says is the caller's answer, not this process's end.
            return self._triton.InferenceResponse(error=self._triton.TritonError(str(error)))
        tensors = [self._triton.Tensor(name, value) for name, value in zip(wanted, values, strict=True)]
        return self._triton.InferenceResponse(output_tensors=tensors)

    def _array(self, request: Any, name: str) -> Any:
        tensor = self._triton.get_input_tensor_by_name(request, name)
        if tensor is None:
            raise ValueError(f"input {name} is missing")
        return tensor.as_numpy()
