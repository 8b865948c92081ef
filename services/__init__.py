"""Freshrank's services, one package each."""

import os

# onnxruntime reports to its maker as soon as it is imported, and asks for leave here alone.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
