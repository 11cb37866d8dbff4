"""Does the engine run a thin network faster than torch does, on this machine?

Asked once per machine, build, number of threads and network: both run a small image, in turns. What
was found is remembered on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from zlib import crc32

import torch
from torch import Tensor, nn

from thinlens.engine.compiled import compile as compile_module
from thinlens.engine.native import build, native
from thinlens.engine.timings import Timings, cpu, folder, least_in_turns
from thinlens.errors import UsageError

Run = Callable[[Tensor], Tensor]

Measure = Callable[[Run, Run, Tensor], list[float]]
"""Given torch's module, the engine's and an image, returns the seconds of both."""

PROBE = 96
"""Pixels on each side of the image: the engine's fixed costs weigh more than on a larger one."""

ROUNDS = 3
"""After one that warms up."""

MARGIN = 0.9
"""Of torch's time: a plan for every size of image takes some, too."""

THIN = 0.1
"""Share of zeros in a layer's weights, which training does not make."""


def faster(module: nn.Module, channels: int, measure: Measure | None = None) -> Run:
    """Return the engine's callable for a thin `module` if it is faster, else the module itself."""
    if not is_thin(module) or native() is None:
        return module
    timings, threads = _timings(), torch.get_num_threads()
    key = f"{cpu()} {build()} {threads} threads {_fingerprint(module)}"
    seconds = timings.get(key, [0, 1])
    try:
        engine = compile_module(module, threads=threads)
        if seconds is None:
            image = torch.rand(1, channels, PROBE, PROBE)
            found = (measure or in_turns)(module, engine, image)
            seconds = dict(enumerate(found))
            timings.add(key, seconds)
    except UsageError:  # the engine does not know the network; torch does
        return module
    return engine if seconds[1] < MARGIN * seconds[0] else module


def is_thin(module: nn.Module) -> bool:
    """Whether some layer has more zeros than training makes."""
    return any(p.dim() == 4 and int((p == 0).sum()) > THIN * p.numel() for p in module.parameters())


def in_turns(one: Run, other: Run, image: Tensor) -> list[float]:
    """Return the least seconds of both."""
    with torch.inference_mode():
        return least_in_turns([partial(run, image) for run in (one, other)], ROUNDS)


@cache
def _timings() -> Timings:
    return Timings(folder() / "engines-1.json")


def _fingerprint(module: nn.Module) -> str:
    """Name what the time depends on: each tensor's shape and how many of it live, in 1/16."""
    parts = [
        f"{name} {tuple(p.shape)} {round(16 * int((p != 0).sum()) / max(1, p.numel()))}"
        for name, p in module.named_parameters()
    ]
    return f"{crc32(chr(10).join(parts).encode()):08x}"
