"""Precisions of the engine: how tensors are stored and convolutions multiplied.

To add one, add a line to `PRECISIONS`; a new storage of tensors is a file in csrc/micro.
"""

from __future__ import annotations

from dataclasses import dataclass

from thinlens.errors import UsageError

FAST = "fast"
"""The name of the fastest precision whose results are those of fp32 but for rounding."""


@dataclass(frozen=True)
class Precision:
    """How tensors are stored, and what convolutions multiply."""

    name: str
    storage: str = "fp32"
    """Of tensors, by the name of a file csrc/micro/storage_<storage>.h."""
    int16: bool = False
    """Whether convolutions multiply 16-bit integers where that is faster."""
    needs: str = ""
    """Instructions that a CPU may lack."""


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32"),
        Precision("bf16", storage="bf16", needs="AVX512_BF16"),
        Precision("int16", int16=True),
    )
}
"""Sums are float32 in all, or 32-bit integers that do not overflow; the network's output is
float32."""


def find_precision(name: str) -> Precision:
    """Return the precision of that name.

    >>> find_precision("bf16").needs
    'AVX512_BF16'
    """
    if name not in PRECISIONS:
        raise UsageError(f"precision {name!r}: wanted {', '.join(PRECISIONS)} or {FAST}")
    return PRECISIONS[name]
