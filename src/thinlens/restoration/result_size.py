"""Sizes of results: a box in pixels that they fit into, a factor, or a percentage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from thinlens.errors import UsageError

_FORMS = "wanted WIDTHxHEIGHT in pixels (3840x2160), a factor (2x, 1.5x) or a percentage (50%)"

_BOX = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")
_FACTOR = re.compile(r"(\d{1,5}(?:\.\d{1,6})?)(x|%)")


@dataclass(frozen=True)
class ResultSize:
    """Either a box or a factor; shapes are never distorted."""

    box: tuple[int, int] | None = None
    """(height, width) that a result fits into and touches."""
    factor: Fraction | None = None
    """Of the input's sides."""

    @classmethod
    def parse(cls, text: str) -> ResultSize:
        """Read what `--size` was; `UsageError` for anything else.

        >>> ResultSize.parse("150%").of(20, 30), ResultSize.parse("60x60").of(20, 30)
        ((30, 45), (40, 60))
        """
        box, factor = _BOX.fullmatch(text), _FACTOR.fullmatch(text)
        if box:
            return cls(box=(int(box[2]), int(box[1])))
        value = Fraction(factor[1]) / (100 if factor[2] == "%" else 1) if factor else Fraction(0)
        if not value:
            raise UsageError(f"--size {text!r}: {_FORMS}")
        return cls(factor=value)

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the result of an image of this size."""
        factor = self.factor
        if self.box is not None:
            factor = min(Fraction(self.box[0], height), Fraction(self.box[1], width))
        if factor is None:
            raise ValueError("neither a box nor a factor")
        return max(1, round(height * factor)), max(1, round(width * factor))
