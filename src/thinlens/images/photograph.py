"""A photograph: its pixels, and what of its file a copy keeps (depth, transparency, metadata)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from thinlens.images.metadata import Metadata
from thinlens.images.rows import RowReader


@dataclass(frozen=True)
class Photograph:
    """A decoded image file, upright, in grey or RGB."""

    colours: RowReader
    """`[C, H, W]`, 1 or 3 channels: uint8, or float32 in [0, 1] if the file has more bits."""
    alpha: Tensor | None = None
    """Opacity, float32 `[1, H, W]` in [0, 1]; None where the file has none."""
    depth: int = 8
    """Bits a channel of the file: 8, 16, or 32 for floats."""
    metadata: Metadata = field(default_factory=Metadata)
    """Of the file; the orientation is that before it was applied."""

    @property
    def is_grey(self) -> bool:
        """Whether there is one channel of colour."""
        return self.colours.shape[0] == 1
