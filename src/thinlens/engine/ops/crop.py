"""Crop: some rows and columns of a tensor; at the output, made while the image is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.resample import Resample
from thinlens.engine.ops.taps import index_map


@dataclass(eq=False, kw_only=True)
class Crop(Resample):
    """The first rows and columns of `inputs[0]`."""

    name: ClassVar[str] = "crop"
    crops_output: ClassVar[bool] = True


def crop(x: Node, height: int, width: int) -> Crop:
    """Return the first rows and columns of `x`."""
    size = Size(x.size.channels, height, width)
    return Crop([x], size, rows=index_map(range(height)), columns=index_map(range(width)))
