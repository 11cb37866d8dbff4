"""OpenVINO: converted from a TorchScript trace, run by its CPU plugin."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from thinlens.exports.exporter import (
    Exporter,
    ExportInput,
    ExportRunner,
    UnsupportedNetworkError,
    first_line,
)


class OpenVino(Exporter):
    """Two files, .bin with the weights and .xml with the graph; height and width are free."""

    SUFFIXES = (".bin", ".xml")
    PACKAGES = ("openvino",)
    RUNTIME = "openvino"

    def write(self, module: nn.Module, example: ExportInput, stem: Path) -> None:
        import openvino as vino

        batch, channels, *size = example.first.shape
        shape = [batch, channels, *(size if example.second is None else (-1, -1))]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a wrong result shows in the comparison
                traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                    module, example.first, check_trace=False
                )
                model = vino.convert_model(traced, example_input=example.first, input=[shape])
                vino.save_model(model, stem.with_suffix(".xml"), compress_to_fp16=False)
        except Exception as error:  # whatever the converter raises
            raise UnsupportedNetworkError(first_line(error)) from error

    def runner(self, stem: Path) -> ExportRunner:
        import openvino as vino

        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = vino.Core().compile_model(str(stem.with_suffix(".xml")), "CPU", hint)
        return lambda image: torch.from_numpy(compiled([image.numpy()])[0].copy())
