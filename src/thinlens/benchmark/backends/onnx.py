"""ONNX Runtime and OpenVINO as backends: both read torch's ONNX export."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.benchmark.backends.backend import (
    BackendSettings,
    PreparedRun,
    UnavailableError,
    require_packages,
)
from thinlens.benchmark.backends.quantized import quantize_onnx
from thinlens.exports.exporter import UnsupportedNetworkError
from thinlens.exports.onnx import INPUT_NAME, write_onnx

HINTS = {"fp32": {"INFERENCE_PRECISION_HINT": "f32"}, "bf16": {"INFERENCE_PRECISION_HINT": "bf16"}}
"""OpenVINO's properties by precision. With int8 it chooses the type of layers in floating point:
bf16 where the CPU has it."""


def onnxruntime(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run it by ONNX Runtime's CPU provider, whose idle threads sleep here."""
    require_packages("onnxruntime", "onnx")
    if setting.precision == "bf16":
        raise UnavailableError("ONNX Runtime has no bf16 convolution on CPUs")
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    # Threads that spin after work would take time from the next backend.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    model = exported(module, image, setting)
    session = runtime.InferenceSession(model, options, providers=providers)
    feed = {INPUT_NAME: image.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run it by OpenVINO's CPU plugin; int8 as ONNX Runtime has quantized it."""
    require_packages("openvino", "onnx", *(["onnxruntime"] if setting.precision == "int8" else []))
    import openvino as vino

    core = vino.Core()
    if setting.precision == "bf16" and "BF16" not in _capabilities(core):
        raise UnavailableError("OpenVINO has no bf16 on this CPU")
    properties = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "PERFORMANCE_HINT": "LATENCY",
        **HINTS.get(setting.precision, {}),
    }
    model = core.read_model(exported(module, image, setting))
    request, x = core.compile_model(model, "CPU", properties).create_infer_request(), image.numpy()
    return lambda: torch.from_numpy(request.infer([x])[0].copy())


def exported(module: nn.Module, image: Tensor, setting: BackendSettings) -> bytes:
    """Return the module as ONNX, for images of this size; integers are calibrated on `image`."""
    with TemporaryDirectory(prefix="thinlens-onnx-") as folder:
        path = Path(folder) / "network.onnx"
        try:
            write_onnx(module, image, path, free=False)
        except UnsupportedNetworkError as error:
            raise UnavailableError(f"no ONNX of this network: {error}") from error
        return quantize_onnx(path, image) if setting.precision == "int8" else path.read_bytes()


def _capabilities(core: Any) -> list[str]:
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
