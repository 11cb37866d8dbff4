"""Memory budget: how many bytes a restoration may take, chosen or a share of what is free."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from thinlens.errors import UsageError
from thinlens.machine_memory import resident_bytes
from thinlens.restoration.free_memory import available_bytes

FORWARD_SHARE = 2
"""One forward pass takes one part in so many of the memory that is free: the image, its result and
other programs share the rest."""

RESERVE = 64 * 2**20
"""Bytes of a chosen budget for what is not counted: small blocks, and large ones that the allocator
of a system other than Linux keeps."""

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_AMOUNT = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)([KMGT])(?:i?B)?", re.IGNORECASE)


@dataclass(frozen=True)
class MemoryBudget:
    """The most bytes of main memory that this process may take, or a share of what is free."""

    limit: int | None = None
    """Bytes of the whole process, libraries included; None: a share of what is free."""

    @classmethod
    def parse(cls, text: str | None) -> MemoryBudget:
        """Read what `--memory` was, None for the default; `UsageError` for anything else.

        >>> MemoryBudget.parse("1.5G").limit == 1536 * 2**20
        True
        """
        if text is None:
            return cls()
        amount = _AMOUNT.fullmatch(text.strip())
        limit = round(float(amount[1]) * _UNITS[amount[2].upper()]) if amount else 0
        if not limit:
            raise UsageError(f"--memory {text!r}: wanted an amount such as 2G or 800M")
        return cls(limit)

    def forward_bytes(self, device: torch.device) -> int | None:
        """Return the bytes that one forward pass may take now; None where nothing limits it.

        A budget of main memory says nothing about a GPU's.
        """
        free = available_bytes(device)
        if self.limit is not None and device.type == "cpu":
            unused = max(0, self.limit - RESERVE - (resident_bytes() or 0))
            free = unused if free is None else min(unused, free)
        return None if free is None else free // FORWARD_SHARE
