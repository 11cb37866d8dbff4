"""Memory estimates: the peak of a forward pass, and the tile size that fits on this machine."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.errors import UsageError
from thinlens.restoration.memory_budget import MemoryBudget
from thinlens.restoration.network import Network, device_of, dtype_of
from thinlens.restoration.sizes import run_at_any_size, size_rule

WORKSPACE = 1.6
"""Ratio of peak memory to the peak of the activations: functions allocate some too, and
convolutions copy to blocked layouts. Measured on a CPU with oneDNN: EDSR 1.16, RFDN 1.37, DnCNN
1.50, CARN 1.52, rfdn-aim 1.53."""

PROBE = 32
"""Side in pixels of the input whose activations are counted; those of a convolutional network grow
with the area."""

ENGINE_PROBE = 256
"""The same for the native engine, which rounds rows up to whole vectors."""

SMALL = 256
"""Images of at most this side squared are not probed: even EDSR's 256 channels at x4 take 1 GiB."""

TILE_BYTES = 2**30
"""Most bytes for one tile: larger tiles are hardly faster. Bands, which have no margins, may take
all of the budget's share."""

IMAGE_BYTES = 2**29
"""Most bytes of an image, as floats, that is restored by bands of rows where no budget is chosen:
it is in memory whole. 44 megapixels in RGB."""

DEFAULT_BUDGET = MemoryBudget()

STEP = 16
"""Sides of tiles are multiples of it, in pixels, so that they do not depend on every free byte."""


def largest_tile(
    network: Network,
    shape: torch.Size,
    margin: Callable[[], int],
    budget: MemoryBudget = DEFAULT_BUDGET,
) -> int | None:
    """Return the side of the largest cores for a batch of `shape` `[B, C, h, w]`; None: no cut.

    A tile with its margin, which is called only if the image must be cut, takes at most the
    budget's share for a forward pass and `TILE_BYTES`. Raises a `UsageError` if a tile as large as
    the margin does not fit. Without a report of free memory, `TILE_BYTES` alone counts.
    """
    area = shape[-2] * shape[-1]
    if area <= SMALL**2:
        return None
    needed, limit = peak_bytes(network, shape), min(TILE_BYTES, _share(network, budget))
    if needed <= limit:
        return None
    around = margin()
    edge = (math.isqrt(int(limit * area / needed)) - 2 * around) // STEP * STEP
    if edge < max(STEP, around):
        raise UsageError(
            f"an image of {shape[-1]}x{shape[-2]} needs about {needed / 2**30:.1f} GiB as a whole, "
            f"and the {limit / 2**30:.1f} GiB that it may take do not hold tiles with a margin of "
            f"{around} pixels: wanted more memory"
        )
    return edge


def runs_in_bands(
    network: Network, shape: torch.Size, budget: MemoryBudget = DEFAULT_BUDGET
) -> bool:
    """Whether an engine restores a whole image by bands of rows, in the memory of the budget.

    `shape` is `[B, C, h, w]`. An image of up to `SMALL` squared pixels runs whole.
    """
    batch, channels, height, width = shape
    if not isinstance(network, Compiled) or not network.can_roll or batch != 1:
        return False
    limit = _share(network, budget)
    image_limit = IMAGE_BYTES if budget.limit is None else limit
    if height * width <= SMALL**2 or 4 * channels * height * width > image_limit:
        return False
    rows, columns = size_rule(network.module).accepted(height, width)
    try:
        plan = network.plan(Size(channels, rows, columns))
    except UsageError:  # a size that the engine does not plan
        return False
    return plan.is_banded and plan.bytes <= limit


def _share(network: Network, budget: MemoryBudget) -> int:
    """Return the bytes that one forward pass may take."""
    share = budget.forward_bytes(device_of(network))
    return TILE_BYTES if share is None else share


def peak_bytes(network: Network, shape: torch.Size) -> int:
    """Estimate the peak memory of a forward pass on a batch of `shape` `[B, C, h, w]`, in bytes.

    The activations of a small forward pass are counted and scaled by the area; a compiled engine
    knows its own size. 0 for networks that are neither.
    """
    area = shape[-2] * shape[-1]
    if isinstance(network, Compiled):
        planned = network.plan(Size(shape[1], ENGINE_PROBE, ENGINE_PROBE)).bytes
        return planned * area // ENGINE_PROBE**2
    device, dtype = device_of(network), dtype_of(network)
    probe = torch.zeros(*shape[:2], PROBE, PROBE, device=device, dtype=dtype)
    activations = _ActivationBytes()
    hook = register_module_forward_hook(activations.add)
    try:
        with torch.inference_mode():
            run_at_any_size(network, probe)
    finally:
        hook.remove()
    return int(activations.peak * WORKSPACE * area / PROBE**2)


class _ActivationBytes:
    """Counts the bytes of the module outputs that are allocated, and their peak."""

    def __init__(self) -> None:
        self._allocated: dict[int, int] = {}
        self.peak = 0

    def add(self, module: nn.Module, inputs: object, output: object) -> None:
        """Count an output until it is freed; a forward hook of every module."""
        if isinstance(output, Tensor) and id(output) not in self._allocated:
            self._allocated[id(output)] = output.nbytes
            weakref.finalize(output, self._allocated.pop, id(output))
            self.peak = max(self.peak, sum(self._allocated.values()))
