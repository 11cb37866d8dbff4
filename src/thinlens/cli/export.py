"""The command `export`: write a network as the files of another engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class Export(Verb):
    """Write a network for ONNX Runtime, OpenVINO or ncnn, compared with torch there.

    Example: thinlens export rfdn-x4 --to onnx --out rfdn-x4.onnx
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A folder, or a shipped name."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The new file; OpenVINO and ncnn have two, FILE.xml or FILE.param and FILE.bin."""
    to: Annotated[str, tyro.conf.arg(metavar="onnx|openvino|ncnn")] = "onnx"
    """The format."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT", help_behavior_hint="")] = None
    """The only size of images that the file takes (default: any size, where the format and the
    network allow it)."""

    def run(self) -> Answer:
        from thinlens.api import export, load_checkpoint
        from thinlens.cli import values

        size = None if self.size is None else values.size(self.size)
        result = export(load_checkpoint(self.checkpoint), self.out, to=self.to, size=size)
        return Answer(result.as_json(), result.sentences())
