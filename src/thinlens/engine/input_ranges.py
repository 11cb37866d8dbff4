"""Ranges of the inputs of convolutions, by which int16 scales them: measured, stored and read."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thinlens.engine.graph import Size
from thinlens.engine.graphs import Graphs
from thinlens.engine.heuristic import Heuristic
from thinlens.engine.native import fastest, native
from thinlens.engine.ops.conv import WeightStore
from thinlens.engine.plan import Plan, PlanContext
from thinlens.errors import UsageError
from thinlens.models.tile_position import tile_positions

if TYPE_CHECKING:
    from thinlens.engine.native import Core

log = logging.getLogger(__name__)

RANGES_KEY = "input_ranges"
"""Of a checkpoint's provenance."""

MAX_IMAGES = 16
"""Images of the data that a network is pruned with."""

DIGITS = 4
"""Of the ranges that are stored."""

NO_LIMIT = 1 << 62
"""Bytes of memory: crops are small."""

CROP_SIDE = 256
"""Pixels of the sides of crops; smaller images are measured whole."""


def measure_input_ranges(
    module: nn.Module, images: Sequence[Tensor], threads: int = 1
) -> dict[str, float]:
    """Run `module` in float32 on images `[B, C, H, W]`, or crops of large ones.

    Returns the largest magnitude of every convolution's input, by the name of its layer. Raises
    `UsageError` for an operation that the engine does not have; nothing where it was not built.

    >>> measure_input_ranges(nn.Sequential(nn.Conv2d(1, 1, 1)), [torch.full((1, 1, 4, 4), -3.0)])
    {'0': 3.0}
    """
    core = native()
    if core is None:
        return {}
    pool, graphs, context = core.ThreadPool(threads), Graphs(module), _recording_context(core)
    ranges: dict[str, float] = {}
    plans: dict[Size, Plan] = {}
    for image in [one[None] for batch in images for one in batch.detach()]:
        for crop in _crops(image):
            size = Size(*crop.shape[1:])
            if size not in plans:
                plans[size] = _recording_plan(context, graphs, size)
            with tile_positions(()), torch.inference_mode():
                plans[size].run(pool, crop, torch.empty(1, *plans[size].shape), [])
    for plan in plans.values():
        for layer, largest in zip(plan.recorded, plan.program.ranges(), strict=True):
            ranges[layer] = max(ranges.get(layer, 0.0), largest)
    return ranges


def input_range_entry(
    module: nn.Module, images: Sequence[Tensor], threads: int
) -> dict[str, dict[str, float]]:
    """Return the entry of a record that `read_input_ranges` reads: of the first of some images.

    Empty without an image, where the engine was not built, and for a network that it does not run.

    >>> input_range_entry(nn.Sequential(nn.Conv2d(1, 1, 1)), [torch.ones(2, 1, 4, 4)], threads=1)
    {'input_ranges': {'0': 1.0}}
    """
    few = [one[None] for batch in images for one in batch][:MAX_IMAGES]
    try:
        ranges = measure_input_ranges(module, few, threads) if few else {}
    except UsageError as reason:
        log.debug("no ranges for int16: %s", reason)
        return {}
    rounded = {layer: float(f"{largest:.{DIGITS}g}") for layer, largest in ranges.items()}
    return {RANGES_KEY: rounded} if rounded else {}


def read_input_ranges(provenance: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the ranges that a checkpoint's provenance holds; None where it has none.

    >>> read_input_ranges({"input_ranges": {"body.0": 1.5}}), read_input_ranges({})
    ({'body.0': 1.5}, None)
    """
    stored = provenance.get(RANGES_KEY)
    if not isinstance(stored, dict):
        return None
    numbers = {str(k): v for k, v in stored.items() if isinstance(v, int | float)}
    ranges = {layer: float(v) for layer, v in numbers.items() if math.isfinite(v) and v >= 0}
    return ranges if len(ranges) == len(stored) else None


def _recording_context(core: Core) -> PlanContext:
    kernels, weights = core.kernels(fastest()), WeightStore(core)
    return PlanContext(core, kernels, Heuristic(), NO_LIMIT, weights, records_ranges=True)


def _recording_plan(context: PlanContext, graphs: Graphs, size: Size) -> Plan:
    try:
        return Plan(context, graphs, size)
    except UsageError:
        raise
    except Exception as error:  # whatever a module's code raises
        raise UsageError(f"no plan: {str(error).partition(chr(10))[0]}") from error


def _crops(image: Tensor) -> Iterator[Tensor]:
    """Yield the image, or the middle of each of its quarters."""
    height, width = image.shape[2:]
    if max(height, width) <= CROP_SIDE:
        yield image
        return
    tops, lefts = ({_first(n, i) for i in (1, 3)} for n in (height, width))
    for top in sorted(tops):
        for left in sorted(lefts):
            crop = image[:, :, top : top + CROP_SIDE, left : left + CROP_SIDE]
            yield crop.contiguous()


def _first(length: int, quarter: int) -> int:
    """Return where a crop begins whose middle is at 1/4 or 3/4 of an axis."""
    return max(0, min(length - CROP_SIDE, length * quarter // 4 - CROP_SIDE // 2))
