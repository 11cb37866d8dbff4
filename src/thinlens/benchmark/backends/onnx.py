"""How do ONNX Runtime and OpenVINO run a network? Both read what torch exports as ONNX."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.benchmark.backends.backend import PreparedRun, Setting, UnavailableError, need, quiet
from thinlens.benchmark.backends.quantized import quantized

OPSET = 17

HINTS = {"fp32": {"INFERENCE_PRECISION_HINT": "f32"}, "bf16": {"INFERENCE_PRECISION_HINT": "bf16"}}
"""For OpenVINO. What int8 leaves in floats runs as OpenVINO likes best: bf16 where it can."""


def onnxruntime(module: nn.Module, image: Tensor, setting: Setting) -> PreparedRun:
    """Run it by ONNX Runtime's CPU provider, whose idle threads sleep here."""
    need("onnxruntime", "onnx")
    if setting.precision == "bf16":
        raise UnavailableError("ONNX Runtime has no bf16 convolution on CPUs")
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    # Threads that spin after work would take time from the engine that is next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    model = exported(module, image, setting)
    session = runtime.InferenceSession(model, options, providers=providers)
    feed = {"image": image.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(module: nn.Module, image: Tensor, setting: Setting) -> PreparedRun:
    """Run it by OpenVINO's CPU plugin; int8 as ONNX Runtime has quantized it."""
    need("openvino", "onnx", *(["onnxruntime"] if setting.precision == "int8" else []))
    import openvino as vino

    core = vino.Core()
    if setting.precision == "bf16" and "BF16" not in _capabilities(core):
        raise UnavailableError("OpenVINO has no bf16 on this CPU")
    wanted = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "PERFORMANCE_HINT": "LATENCY",
        **HINTS.get(setting.precision, {}),
    }
    model = core.read_model(exported(module, image, setting))
    request, x = core.compile_model(model, "CPU", wanted).create_infer_request(), image.numpy()
    return lambda: torch.from_numpy(request.infer([x])[0].copy())


def exported(module: nn.Module, image: Tensor, setting: Setting) -> bytes:
    """Return the module as ONNX, for images of this size; integers are calibrated on `image`."""
    with quiet(), TemporaryDirectory(prefix="thinlens-onnx-") as folder:
        path = Path(folder) / "network.onnx"
        # The older exporter: the newer one needs two packages more, to the same graph.
        torch.onnx.export(
            module,
            (image,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["restored"],
        )
        return quantized(path, image) if setting.precision == "int8" else path.read_bytes()


def _capabilities(core: Any) -> list[str]:
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
