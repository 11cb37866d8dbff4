"""Other inference engines, as backends of the benchmark: one file per engine and its modes."""

from __future__ import annotations

from thinlens.benchmark.backends.backend import BackendSettings, PrepareBackend, UnavailableError
from thinlens.benchmark.backends.mnn import mnn, mnn_sparse
from thinlens.benchmark.backends.ncnn import ncnn
from thinlens.benchmark.backends.onnx import onnxruntime, openvino
from thinlens.benchmark.backends.torch import channels_last, compiled, eager
from thinlens.benchmark.backends.xnnpack import xnnpack

BACKENDS: dict[str, PrepareBackend] = {
    "torch": eager,
    "torch-channels-last": channels_last,
    "torch-compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
    "mnn": mnn,
    "mnn-sparse": mnn_sparse,
    "xnnpack": xnnpack,
}
"""By the name that `bench --against` takes."""

SPARSE_BACKENDS = ("mnn-sparse",)
"""Those that skip zeros."""

BENCH_PRECISIONS = ("fp32", "bf16", "int16", "fast", "int8")
"""Precisions that some backend has."""

OUR_PRECISIONS = ("int16", "fast")
"""Those that only the native engine has."""

DEFAULT_PRECISIONS = "fp32,bf16,int16,int8"
"""All but `fast`, which is one of the others."""

__all__ = [
    "BACKENDS",
    "BENCH_PRECISIONS",
    "DEFAULT_PRECISIONS",
    "OUR_PRECISIONS",
    "SPARSE_BACKENDS",
    "BackendSettings",
    "PrepareBackend",
    "UnavailableError",
]
