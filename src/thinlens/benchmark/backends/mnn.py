"""MNN as a backend: its converter reads torch's ONNX export; its sparse kernels are another one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinlens.benchmark.backends.backend import (
    BackendSettings,
    PreparedRun,
    UnavailableError,
    require_packages,
)
from thinlens.benchmark.backends.onnx import exported
from thinlens.benchmark.backends.silence import silence
from thinlens.exports.onnx import INPUT_NAME, OUTPUT_NAME

CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
"""MNN's converter without its command line, which installs a package and reports each use."""

CONVERTER_SECONDS = 600
"""After which it is taken for stuck."""

SPARSE_FLAG = "--detectSparseSpeedUp"
"""With it, convolutions whose zeros pay by MNN's measure run by its sparse kernels."""


def mnn(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run it by MNN's CPU backend in float32."""
    return _prepared(module, image, setting)


def mnn_sparse(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run it with MNN's sparse kernels where its converter finds them faster."""
    return _prepared(module, image, setting, SPARSE_FLAG)


def _prepared(
    module: nn.Module, image: Tensor, setting: BackendSettings, *flags: str
) -> PreparedRun:
    require_packages("MNN", "onnx")
    if setting.precision != "fp32":
        raise UnavailableError(f"MNN has no {setting.precision} convolution here")
    settings = {"backend": "CPU", "precision": "high", "numThread": setting.threads}
    with silence():  # it prints what the CPU has
        import MNN.expr as expressions
        import MNN.nn as networks

        runtime: Any = networks.create_runtime_manager((settings,))
    with TemporaryDirectory(prefix="thinlens-mnn-") as folder:
        path = _converted(exported(module, image, setting), Path(folder), flags)
        names = [INPUT_NAME], [OUTPUT_NAME]
        net: Any = networks.load_module_from_file(
            str(path), *names, runtime_manager=runtime, shape_mutable=False
        )
    values = np.ascontiguousarray(image.numpy())
    x = expressions.placeholder(list(values.shape), expressions.NCHW, expressions.float)
    x.write(values)

    def run() -> Tensor:
        (result,) = net.forward([x])
        result = expressions.convert(result, expressions.NCHW)
        return torch.from_numpy(np.array(result.read(), np.float32))

    return run


def _converted(model: bytes, folder: Path, flags: tuple[str, ...]) -> Path:
    """Write an ONNX model as MNN's file into `folder`, and return its path."""
    source, path = folder / "network.onnx", folder / "network.mnn"
    source.write_bytes(model)
    words = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), *flags]
    command = [sys.executable, "-c", CONVERT, *words]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, check=False, timeout=CONVERTER_SECONDS
    )
    if done.returncode or not path.exists():
        raise UnavailableError("MNN's converter does not know this network")
    return path
