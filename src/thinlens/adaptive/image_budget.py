"""How is it said how many multiply-adds an image may take?"""

from __future__ import annotations

import re
from dataclasses import dataclass

from thinlens.errors import UsageError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class ImageBudget:
    """The multiply-adds of one image, estimator included, or their part of the dearest network's.

    The base of a part is the dearest candidate on the whole image, without tiles.
    """

    macs: float | None = None
    part: float | None = None

    @classmethod
    def read(cls, text: str) -> ImageBudget:
        """Read `6G` or `30%`; anything else is a `UsageError`."""
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?|%)", text.strip())
        if found is None or float(found[1]) == 0:
            raise UsageError(
                f"--image-budget {text!r}: wanted multiply-adds such as 6G, or a part of the "
                "dearest network's such as 30%"
            )
        value = float(found[1])
        return cls(part=value / 100) if found[2] == "%" else cls(macs=value * UNITS[found[2]])

    def of(self, dearest: int) -> float:
        """Return the multiply-adds that an image may take where the dearest network takes
        `dearest`."""
        return self.macs if self.macs is not None else (self.part or 0) * dearest
