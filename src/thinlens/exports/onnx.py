"""ONNX: written by torch's exporter, run by ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from thinlens.exports.exporter import (
    Exporter,
    ExportInput,
    ExportRunner,
    UnsupportedNetworkError,
    first_line,
)

OPSET = 17
"""Version of the ONNX operator set."""

INPUT_NAME, OUTPUT_NAME = "image", "restored"
"""Names of the file's input and output."""


class Onnx(Exporter):
    """One file; batch, height and width are free."""

    SUFFIXES = (".onnx",)
    PACKAGES = ("onnx",)
    RUNTIME = "onnxruntime"

    def write(self, module: nn.Module, example: ExportInput, stem: Path) -> None:
        write_onnx(
            module, example.first, stem.with_suffix(".onnx"), free=example.second is not None
        )

    def runner(self, stem: Path) -> ExportRunner:
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(
            str(stem.with_suffix(".onnx")), options, providers=["CPUExecutionProvider"]
        )
        return lambda image: torch.from_numpy(session.run(None, {INPUT_NAME: image.numpy()})[0])


def write_onnx(module: nn.Module, image: Tensor, path: Path, *, free: bool) -> None:
    """Write a module, traced on `image` `[1, C, h, w]`, as ONNX.

    `free` is whether batch, height and width may differ from the image's. Raises
    `UnsupportedNetworkError` with the exporter's reason.
    """
    axes = {0: "batch", 2: "height", 3: "width"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a wrong result shows in the comparison with torch
            # The older exporter: the newer one needs two packages more, for the same graph.
            torch.onnx.export(
                module,
                (image,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_axes={INPUT_NAME: axes, OUTPUT_NAME: axes} if free else None,
            )
    except Exception as error:  # whatever the exporter raises
        raise UnsupportedNetworkError(first_line(error)) from error
