"""Costs of ClassPruning's networks by closed forms, with every layer listed by hand.

Each form lists the layers of one network at one size from the text of its paper and the printed
numbers alone; nothing of the package is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

STAGES = 4
"""RESCAN predicts rain four times."""


@dataclass(frozen=True)
class Part:
    """One layer, summed over its calls."""

    c_in: int
    c_out: int
    side: int
    positions: int
    """Output positions."""
    prunable: bool = True
    bias: bool = True
    inputs: int | None = None
    """Input positions of a transposed layer."""
    linear: bool = False


def rescan(c: int, p: int) -> Iterator[Part]:
    later = (STAGES - 1) * p
    for c_in in (3, c, c, c, c):
        for positions in (STAGES * p, later, STAGES * p):  # z, r, n; the first stage needs no r
            yield Part(c_in, c, 3, positions, prunable=c_in != 3)
        yield from [Part(c, c, 3, later)] * 3
        yield Part(c, 6, 1, STAGES, linear=True)
        yield Part(6, c, 1, STAGES, linear=True)
    yield Part(c, c, 3, STAGES * p)
    yield Part(c, 6, 1, STAGES, linear=True)
    yield Part(6, c, 1, STAGES, linear=True)
    yield Part(c, 3, 1, STAGES * p, prunable=False)


def srn_lstm(p: int) -> Iterator[Part]:
    full = p + p // 4 + p // 16  # three scales
    half, quarter = full // 4, full // 16
    yield Part(6, 32, 5, full, prunable=False)
    yield from [Part(32, 32, 5, full)] * 12  # three blocks down, three up
    yield Part(32, 64, 5, half)
    yield from [Part(64, 64, 5, half)] * 12
    yield Part(64, 128, 5, quarter)
    yield from [Part(128, 128, 5, quarter)] * 12
    yield Part(256, 512, 5, quarter)
    yield Part(128, 64, 5, half, inputs=quarter)
    yield Part(64, 32, 5, full, inputs=half)
    yield Part(32, 3, 5, full, prunable=False)


def gcanet(channels: int, p: int) -> Iterator[Part]:
    low = p // 4
    yield Part(channels, 64, 3, p, prunable=False, bias=False)
    yield Part(64, 64, 3, p, bias=False)
    yield from [Part(64, 64, 3, low, bias=False)] * 15  # the strided one and seven blocks
    yield Part(192, 3, 3, low, prunable=False)
    yield Part(64, 64, 4, p, inputs=low)
    yield Part(64, 64, 3, p)
    yield Part(64, 3, 1, p, prunable=False)


def classifier(p: int) -> Iterator[Part]:
    yield Part(1, 64, 3, p // 4, prunable=False, bias=False)
    yield Part(64, 64, 3, p // 16, bias=False)
    yield Part(64, 64, 3, p // 64, bias=False)
    yield Part(64, 96, 1, p // 64, bias=False)
    yield Part(96, 3, 1, 1, linear=True)


SHARED_KERNELS = 6 * 3**2 + 6 * 7**2
"""GCANet's smoothing kernels: two in each of six blocks, of side 2 dilation - 1."""

FORMS: dict[str, tuple[Callable[[int], Iterator[Part]], int]] = {
    "rescan-24": (lambda p: rescan(24, p), 0),
    "rescan-48": (lambda p: rescan(48, p), 0),
    "srn-lstm": (srn_lstm, 0),
    "gcanet": (lambda p: gcanet(3, p), 2 * 64 * (3 + 14 + 2) + SHARED_KERNELS),
    "gcanet-edge": (lambda p: gcanet(4, p), 2 * 64 * (3 + 14 + 2) + SHARED_KERNELS),
    "classifier": (classifier, 2 * (3 * 64 + 96)),
}
"""The layers of a network at so many pixels, and its parameters that are in no layer."""


def expected(row: dict[str, Any]) -> dict[str, int]:
    """Count a golden row of ClassPruning's convention by hand."""
    assert (row["convention"], row["policy"], row["width"]) == ("classpruning", "skip", "1")
    form, params = FORMS[row["name"]]
    width, height = (int(side) for side in row["size"].split("x"))
    n, m = (int(x) for x in (row["pattern"] or "32:32").split(":"))
    macs = prunable = 0
    for part in form(width * height):
        kept = part.c_in
        if part.prunable and part.c_in % m == 0:
            kept = part.c_in // m * n
            used = part.positions if part.inputs is None else part.inputs
            prunable += part.c_in * part.c_out * part.side**2 * used
        params += kept * part.c_out * part.side**2 + part.c_out * part.bias
        if not part.linear:
            macs += (kept * part.side**2 + part.bias) * part.c_out * part.positions
    return {"params": params, "macs": macs, "flops": 2 * macs, "prunable_macs": prunable}
