"""ncnn as a backend: its converter pnnx reads a TorchScript trace."""

from __future__ import annotations

import subprocess
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
    no_warnings,
    require_packages,
)


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
        stem = _converted(module, image, Path(folder))
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


def _converted(module: nn.Module, image: Tensor, folder: Path) -> Path:
    """Write ncnn's two files into `folder`; return their path without the endings."""
    import pnnx

    with no_warnings():
        traced = torch.jit.trace(module, image, check_trace=False)  # type: ignore[no-untyped-call]
        traced.save(str(folder / "net.pt"))
    shape = ",".join(map(str, image.shape))
    # Run here, not by pnnx.export, which prints.
    words = [pnnx.EXEC_PATH, "net.pt", f"inputshape=[{shape}]f32", "fp16=0"]
    done = subprocess.run(words, cwd=folder, capture_output=True, check=False)
    stem = folder / "net.ncnn"
    if done.returncode or not stem.with_suffix(".ncnn.param").exists():
        raise UnavailableError("ncnn's converter does not know this network")
    return stem
