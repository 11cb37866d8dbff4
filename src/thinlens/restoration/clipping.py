"""Count of the values that a network returns far outside of [0, 1], which results cannot hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

CLIP_MARGIN = 0.25
"""Below 0 and above 1, values are far outside; sharp edges overshoot by less."""

CLIP_SHARE = 0.001
"""The share of such values above which a result is reported."""

SHOWN_RESULTS = 5
"""Names in the sentence; `--json` has all."""


@dataclass
class Clipping:
    """Values of a result, and those of them that were far outside."""

    values: int = 0
    outside: int = 0

    @property
    def share(self) -> float:
        """The part of the values that was far outside."""
        return self.outside / self.values if self.values else 0.0

    @property
    def is_notable(self) -> bool:
        """Whether the result is reported."""
        return self.share > CLIP_SHARE


_counting: ContextVar[Clipping | None] = ContextVar("counting", default=None)


@contextmanager
def counted_clipping() -> Iterator[Clipping]:
    """Count what `clipped` clips within the block, in this thread.

    >>> import torch
    >>> with counted_clipping() as counts:
    ...     _ = clipped(torch.tensor([0.5, 1.1, 3.0, -1.0]))
    >>> counts.share
    0.5
    """
    counts = Clipping()
    token = _counting.set(counts)
    try:
        yield counts
    finally:
        _counting.reset(token)


def clipped(output: Tensor) -> Tensor:
    """Return values clipped to [0, 1], and count those that were far outside."""
    counts = _counting.get()
    if counts is not None:
        counts.values += output.numel()
        low, high = output.aminmax()
        if low < -CLIP_MARGIN or high > 1 + CLIP_MARGIN:
            far = (output < -CLIP_MARGIN) | (output > 1 + CLIP_MARGIN)
            counts.outside += int(far.sum())
    return output.clamp(0, 1)


def clipping_sentence(shares: Mapping[str, float]) -> str:
    """Return the line that `restore` prints for results by name and share.

    >>> clipping_sentence({"a.png": 0.04})
    '1 result was clipped, the network returned values far outside of [0, 1]: a.png (4.0 %)'
    """
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    names = [f"{name} ({100 * share:.1f} %)" for name, share in ordered[:SHOWN_RESULTS]]
    more = f" and {len(shares) - SHOWN_RESULTS} more" if len(shares) > SHOWN_RESULTS else ""
    many = "1 result was" if len(shares) == 1 else f"{len(shares)} results were"
    return (
        f"{many} clipped, the network returned values far outside of [0, 1]: "
        f"{', '.join(names)}{more}"
    )
