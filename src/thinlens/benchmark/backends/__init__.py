"""Which other engines can run the same network? One file a family; the table names them."""

from __future__ import annotations

from thinlens.benchmark.backends.backend import Prepare, Setting, UnavailableError
from thinlens.benchmark.backends.ncnn import ncnn
from thinlens.benchmark.backends.onnx import onnxruntime, openvino
from thinlens.benchmark.backends.torch import channels_last, compiled, eager

PEERS: dict[str, Prepare] = {
    "torch": eager,
    "torch-channels-last": channels_last,
    "torch-compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
}
"""By the name that `bench --against` takes."""

PRECISIONS = ("fp32", "bf16", "int8")

__all__ = ["PEERS", "PRECISIONS", "Prepare", "Setting", "UnavailableError"]
