"""ncnn as a backend: its converter pnnx reads a TorchScript trace."""

from __future__ import annotations

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
from thinlens.exports.exporter import UnsupportedNetworkError
from thinlens.exports.ncnn import write_ncnn


def ncnn(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run it by ncnn; bf16 is how it stores activations, it computes in float32."""
    require_packages("ncnn", "pnnx")
    if setting.precision == "int8":
        raise UnavailableError("ncnn's package brings no tool that calibrates int8")
    import ncnn as runtime

    net: Any = runtime.Net()
    net.opt.num_threads = setting.threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = setting.precision == "bf16"
    with TemporaryDirectory(prefix="thinlens-ncnn-") as folder:
        try:
            stem = write_ncnn(module, image, Path(folder))
        except UnsupportedNetworkError as error:
            raise UnavailableError(str(error)) from error
        if net.load_param(f"{stem}.param") or net.load_model(f"{stem}.bin"):
            raise UnavailableError("ncnn cannot load what its converter wrote")
    x = np.ascontiguousarray(image[0].numpy())

    def run() -> Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", runtime.Mat(x))
        status, out = extractor.extract("out0")
        if status:
            raise UnavailableError(f"ncnn failed with status {status}")
        return torch.from_numpy(np.array(out, np.float32))[None]

    return run
