"""Which other engines can run the same network? One file a family; the table names them."""

from __future__ import annotations

from thinlens.engine.peers.by_ncnn import ncnn
from thinlens.engine.peers.by_onnx import onnxruntime, openvino
from thinlens.engine.peers.by_torch import channels_last, compiled, eager
from thinlens.engine.peers.peer import Prepare, Setting, UnavailableError

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
