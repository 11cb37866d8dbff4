"""Filters of PNG rows: each byte less a prediction from its neighbours (third edition, 9.2)."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from thinlens.images.encoders.content import Samples

UP = 2
"""The filter that predicts the byte above: fast, and good for photographs."""

_TRIAL_LEVEL = 1
"""The level of zlib at which filters are compared."""


def filter_up(rows: Samples, above: Samples) -> Samples:
    """Return bytes `[R, N]` with the filter's number in front, `[R, 1 + N]`.

    `above` `[1, N]` is the row before them.
    """
    return _numbered(rows - np.concatenate([above, rows[:-1]]), UP)


def filter_best(rows: Samples, above: Samples, step: int) -> Samples:
    """Filter rows by what compresses best: one of five filters for all, or the one for each row
    with the smallest sum of differences.

    `step` are the bytes of a pixel. Much slower than `filter_up`; files are some per cent smaller,
    those of drawings much more.
    """
    up = np.concatenate([above, rows[:-1]])
    left, corner = (np.pad(part, ((0, 0), (step, 0)))[:, :-step] for part in (rows, up))
    fixed = [
        _numbered(rows - prediction(left, up, corner), number)
        for number, prediction in enumerate(_PREDICTIONS)
    ]
    # Bytes are taken for signed: 255 is as small as 1 (third edition, 12.7).
    sums = [np.abs(part[:, 1:].view(np.int8).astype(np.int16)).sum(1) for part in fixed]
    best = np.argmin(np.stack(sums), axis=0)
    mixed = np.stack(fixed)[best, np.arange(len(rows))]
    return min([mixed, *fixed], key=lambda lines: len(zlib.compress(lines.tobytes(), _TRIAL_LEVEL)))


def _numbered(rows: Samples, number: int) -> Samples:
    lines = np.full((len(rows), 1 + rows.shape[1]), number, np.uint8)
    lines[:, 1:] = rows
    return lines


def _average(left: Samples, up: Samples, corner: Samples) -> Samples:
    return np.asarray((left >> 1) + (up >> 1) + (left & up & 1))


def _paeth(left: Samples, up: Samples, corner: Samples) -> Samples:
    """Return the neighbour that is nearest to left + up - corner."""
    a, b, c = (part.astype(np.int16) for part in (left, up, corner))
    to_left, to_up, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where((to_left <= to_up) & (to_left <= to_corner), left, corner)
    return np.where((to_up < to_left) & (to_up <= to_corner), up, nearest)


_PREDICTIONS: tuple[Callable[[Samples, Samples, Samples], Samples], ...] = (
    lambda left, up, corner: np.zeros_like(left),
    lambda left, up, corner: left,
    lambda left, up, corner: up,
    _average,
    _paeth,
)
"""By the number of the filter: None, Sub, Up, Average, Paeth."""
