"""How is it said what an image may cost, in multiply-adds or in milliseconds?"""

from __future__ import annotations

import re
from dataclasses import dataclass

from thinlens.errors import UsageError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class ImageBudget:
    """What one image may cost, estimator included, or the part of what the dearest network costs.

    The base of a part is the dearest candidate on the whole image, without tiles.
    """

    macs: float | None = None
    part: float | None = None
    ms: float | None = None

    @classmethod
    def read(cls, text: str) -> ImageBudget:
        """Read `6G`, `30%` or `40ms`; anything else is a `UsageError`."""
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?|%|ms)", text.strip())
        if found is None or float(found[1]) == 0:
            raise UsageError(
                f"--image-budget {text!r}: wanted multiply-adds such as 6G, milliseconds such as "
                "40ms, or a part of the dearest network's such as 30%"
            )
        value, unit = float(found[1]), found[2]
        if unit == "ms":
            return cls(ms=value)
        return cls(part=value / 100) if unit == "%" else cls(macs=value * UNITS[unit])

    def of(self, dearest: float) -> float:
        """Return what an image may cost where the dearest network costs `dearest`."""
        absolute = self.macs if self.ms is None else self.ms
        return absolute if absolute is not None else (self.part or 0) * dearest
