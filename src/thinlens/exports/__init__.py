"""Export to the files of other engines: `EXPORTERS` lists the formats."""

from __future__ import annotations

from thinlens.exports.exporter import Exporter
from thinlens.exports.ncnn import Ncnn
from thinlens.exports.onnx import Onnx
from thinlens.exports.openvino import OpenVino

EXPORTERS: dict[str, Exporter] = {"onnx": Onnx(), "openvino": OpenVino(), "ncnn": Ncnn()}
"""By name; a new format is one file and one line here."""
