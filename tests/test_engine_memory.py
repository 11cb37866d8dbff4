"""The engine releases its memory, and needs less than torch."""

from __future__ import annotations

import ctypes
import os
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from native_engine import built
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.heuristic import Heuristic
from thinlens.models import create

pytestmark = built

STATM = Path("/proc/self/statm")
MIB = 1 << 20


def resident() -> int:
    """Bytes of this process in memory, after the allocator gave back what it only kept."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="memory is read in /proc")
def test_memory_does_not_grow_over_calls_of_changing_sizes() -> None:
    """A plan of these sizes takes about 0.5 MB: 800 that stayed would be 400."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)]
    fast, sizes = Compiled(nn.Sequential(*layers), 2), random.Random(0)

    def call(times: int) -> None:
        for _ in range(times):
            fast(torch.rand(1, 3, sizes.randint(30, 90), sizes.randint(30, 90)))

    call(200)
    before = resident()
    call(800)
    assert resident() - before < 16 * MIB


@pytest.mark.skipif(not STATM.exists(), reason="memory is read in /proc")
def test_plans_of_many_sizes_hold_the_memory_of_one() -> None:
    """And running one after the others have given back gives the same bits."""
    fast = Compiled(nn.Conv2d(3, 64, 3, padding=1), 1)
    images = [torch.rand(1, 3, 256, 256 + width) for width in range(5)]
    first, before = fast(images[0]), resident()
    plan = next(iter(fast._plans.values()))
    for image in images[1:]:
        fast(image)
    assert len(fast._plans) == len(images)
    assert resident() - before < 0.5 * plan.bytes
    assert torch.equal(fast(images[0]), first)


def test_a_small_image_does_not_cost_a_large_one_its_memory() -> None:
    fast = Compiled(nn.Conv2d(3, 64, 3, padding=1), 1)
    large, small, other = (fast.plan(Size(3, 256, width)) for width in (256, 8, 250))
    for width, held in ((256, [large]), (8, [large, small]), (250, [small, other])):
        fast(torch.rand(1, 3, 256, width))
        assert fast._with_arena == held


SHARE = 0.75
"""Of what torch holds at once at least. Measured peaks are 308 and 556 MiB."""


def test_edsr_takes_less_memory_than_torch() -> None:
    """torch holds the channels of the large image twice: before and after they are shuffled."""
    module, (height, width) = create("edsr", scale=4), (180, 320)
    plan = Compiled(module.eval(), 1, kernel_selector=Heuristic()).plan(Size(3, height, width))
    torch_at_least = 2 * 4 * module.config.width * (4 * height) * (4 * width)
    assert plan.bytes <= SHARE * torch_at_least
