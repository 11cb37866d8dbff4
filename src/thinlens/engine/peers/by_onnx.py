"""How do ONNX Runtime and OpenVINO run a network? Both read what torch exports as ONNX."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.engine.peers.peer import Run, Setting, UnavailableError, need, quiet

OPSET = 17


def onnxruntime(module: nn.Module, image: Tensor, setting: Setting) -> Run:
    """Run it by ONNX Runtime's CPU provider, whose idle threads sleep here."""
    need("onnxruntime", "onnx")
    if setting.precision != "fp32":
        raise UnavailableError("ONNX Runtime has no bf16 convolution on CPUs")
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    # Threads that spin after work would take time from the engine that is next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    session = runtime.InferenceSession(exported(module, image), options, providers=providers)
    feed = {"image": image.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(module: nn.Module, image: Tensor, setting: Setting) -> Run:
    """Run it by OpenVINO's CPU plugin."""
    need("openvino", "onnx")
    import openvino as vino

    core = vino.Core()
    if setting.precision == "bf16" and "BF16" not in _capabilities(core):
        raise UnavailableError("OpenVINO has no bf16 on this CPU")
    wanted = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[setting.precision],
        "PERFORMANCE_HINT": "LATENCY",
    }
    ready = core.compile_model(core.read_model(exported(module, image)), "CPU", wanted)
    request, x = ready.create_infer_request(), image.numpy()
    return lambda: torch.from_numpy(request.infer([x])[0].copy())


def exported(module: nn.Module, image: Tensor) -> bytes:
    """Return the module as ONNX, for images of this size."""
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
        return path.read_bytes()


def _capabilities(core: Any) -> list[str]:
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
