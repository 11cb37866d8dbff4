"""ncnn: converted from a TorchScript trace by pnnx, run by ncnn."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinlens.errors import RunError
from thinlens.exports.exporter import Exporter, ExportInput, ExportRunner, UnsupportedNetworkError

_INPUT, _OUTPUT = "in0", "out0"
"""The names that pnnx gives to the input and the output."""


class Ncnn(Exporter):
    """Two files, .bin with the weights and .param with the graph; height and width are free."""

    SUFFIXES = (".bin", ".param")
    PACKAGES = ("pnnx",)
    RUNTIME = "ncnn"

    def write(self, module: nn.Module, example: ExportInput, stem: Path) -> None:
        with TemporaryDirectory(prefix="thinlens-ncnn-") as folder:
            written = write_ncnn(module, example.first, Path(folder), second=example.second)
            for suffix in self.SUFFIXES:
                shutil.copyfile(f"{written}{suffix}", stem.with_suffix(suffix))

    def runner(self, stem: Path) -> ExportRunner:
        import ncnn as runtime

        net: Any = runtime.Net()
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        files = (str(stem.with_suffix(suffix)) for suffix in (".param", ".bin"))
        if net.load_param(next(files)) or net.load_model(next(files)):
            raise RunError("ncnn cannot load what its converter wrote")

        def run(image: Tensor) -> Tensor:
            extractor = net.create_extractor()
            extractor.input(_INPUT, runtime.Mat(np.ascontiguousarray(image[0].numpy())))
            status, out = extractor.extract(_OUTPUT)
            if status:
                raise RunError(f"ncnn failed with status {status}")
            return torch.from_numpy(np.array(out, np.float32))[None]

        return run


def write_ncnn(
    module: nn.Module, image: Tensor, folder: Path, *, second: Tensor | None = None
) -> Path:
    """Write ncnn's two files of a module, traced on `image` `[1, C, h, w]`, into `folder`.

    Returns their path without the endings. With an image of a `second` size the files take images
    of any size. Raises `UnsupportedNetworkError` if the converter fails.
    """
    import pnnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a wrong result shows in the comparison with torch
        traced = torch.jit.trace(module, image, check_trace=False)  # type: ignore[no-untyped-call]
        traced.save(str(folder / "net.pt"))
    shapes = {"inputshape": image, "inputshape2": second}
    words = [f"{name}=[{_shape(x)}]f32" for name, x in shapes.items() if x is not None]
    # Run here, not by pnnx.export, which prints.
    command = [pnnx.EXEC_PATH, "net.pt", *words, "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    stem = folder / "net.ncnn"
    if done.returncode or not stem.with_suffix(".ncnn.param").exists():
        raise UnsupportedNetworkError("ncnn's converter does not know this network")
    return stem


def _shape(image: Tensor) -> str:
    return ",".join(map(str, image.shape))
