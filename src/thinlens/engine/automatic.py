"""Automatic engine: native for networks, thin or dense, that it runs faster than torch, else torch.

One line says which was selected and why: the engine, both in turns (mixed), or torch.

Decided per machine, build, number of threads and network: all candidates run a small image,
interleaved. Where both run in turns, the candidates differ in where the network is cut. The least
times are cached on disk. Another program may have been running meanwhile, so up to two later
commands measure again where the engine was not clearly faster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from zlib import crc32

import torch
from torch import Tensor, nn

from thinlens.engine.compilation import compile as compile_module
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.native import build, native
from thinlens.engine.timings import (
    Seconds,
    TimingCache,
    cache_folder,
    cpu_name,
    measure_interleaved,
)
from thinlens.errors import UsageError

log = logging.getLogger(__name__)

ImageFunction = Callable[[Tensor], Tensor]
"""Maps images `[B, C, H, W]`."""

Timer = Callable[[Sequence[ImageFunction], Tensor], list[float]]
"""Return the seconds of torch's module and of the engine's candidates on an image."""

LEAST_WORK = (0.0, 64.0, 256.0)
"""Multiply-adds for each copied value that a segment needs to run in the engine, by candidate:
the more, the fewer cuts and copies. SwinIR-S and SCUNet are fastest at 64, DAT at 0."""

TIMED_SIDE = 96
"""Pixels on each side of the image: the engine's fixed costs weigh more than on a larger one."""

AUTO_ROUNDS = 3
"""Timed rounds, after one of warm-up."""

ENOUGH_SECONDS = 2.0
"""Seconds after which no further round begins: large networks take seconds a run."""

NATIVE_BELOW = 0.9
"""Fraction of torch's time below which the engine is selected: a plan per size takes some, too."""


MEASUREMENTS = -1
"""The key of the number of measurements, beside the times by candidate."""

ENOUGH_MEASUREMENTS = 3
"""Measurements, in as many processes, after which an unclear result is final."""

CLEARLY_FASTER = 0.5
"""Fraction of torch's time up to which one measurement suffices."""


def select_engine(module: nn.Module, channels: int, timer: Timer | None = None) -> ImageFunction:
    """Return the engine's callable for `module` if it is faster, else the module itself."""
    if native() is None:
        return module
    timings, threads = _timings(), torch.get_num_threads()
    key = f"{cpu_name()} {build()} {threads} threads {_fingerprint(module)}"
    seconds = timings.get(key, [0, 1])
    engines: list[ImageFunction] = []
    try:
        if seconds is None or (_is_unclear(seconds) and key not in _measured_here()):
            engines = _candidates(module, channels, threads)
            image = torch.rand(1, channels, TIMED_SIDE, TIMED_SIDE)
            measured = dict(enumerate((timer or least_seconds)([module, *engines], image)))
            seconds = _merged(seconds or {}, measured)
            timings.add(key, seconds)
            _measured_here().add(key)
        best = min(set(seconds) - {0, MEASUREMENTS}, key=seconds.__getitem__)
        least_work = LEAST_WORK[best - 1]
        engine = (
            engines[best - 1]
            if engines
            else compile_module(module, threads=threads, least_work=least_work)
        )
    except UsageError as error:  # an operation that only torch knows
        _say_once(f"torch runs the network: {error}", logging.WARNING)
        return module
    factor = seconds[0] / max(seconds[best], 1e-12)
    if seconds[best] >= NATIVE_BELOW * seconds[0]:
        _say_once(f"torch runs the network: the engine is {factor:.2f} times as fast")
        return module
    _say_selected(engine, channels, f"{factor:.2f} times as fast as torch")
    return engine


def _is_unclear(seconds: Seconds) -> bool:
    """Return whether the engine was not clearly faster in too few measurements."""
    if seconds.get(MEASUREMENTS, 1.0) >= ENOUGH_MEASUREMENTS:
        return False
    engine = min(x for candidate, x in seconds.items() if candidate > 0)
    return engine > CLEARLY_FASTER * seconds[0]


def _merged(earlier: Seconds, measured: Seconds) -> Seconds:
    """Return the least time of each candidate, and the number of measurements."""
    least = {key: min(value, earlier.get(key, value)) for key, value in measured.items()}
    count = earlier.get(MEASUREMENTS, 1.0) + 1 if earlier else 1.0
    return {**least, MEASUREMENTS: count}


@cache
def _measured_here() -> set[str]:
    """Return the keys that this process has measured."""
    return set()


def _candidates(module: nn.Module, channels: int, threads: int) -> list[ImageFunction]:
    """Return the network by the engine, and where it is mixed, cut at fewer places, too."""
    size = Size(channels, TIMED_SIDE, TIMED_SIDE)
    engines: list[ImageFunction] = []
    for least_work in LEAST_WORK:
        engine = compile_module(module, threads=threads, least_work=least_work)
        try:
            is_mixed = isinstance(engine, Compiled) and engine.plan(size).is_mixed
        except UsageError:
            if not engines:
                raise
            break  # nothing remains for the engine
        engines.append(engine)
        if not is_mixed:
            break
    return engines


def _say_selected(engine: ImageFunction, channels: int, speed: str) -> None:
    """Say whether the engine runs the network or both do, and what torch runs."""
    size = Size(channels, TIMED_SIDE, TIMED_SIDE)
    plan = engine.plan(size) if isinstance(engine, Compiled) else None
    if plan is None or not plan.is_mixed:
        _say_once(f"the engine runs the network: {speed}")
        return
    native_layers, torch_layers = plan.layer_counts
    _say_once(
        f"the engine and torch run the network in turns: {speed}; {native_layers} of "
        f"{native_layers + torch_layers} layers in the engine (torch: {plan.first_reason})",
        logging.WARNING,
    )


@cache
def _say_once(sentence: str, level: int = logging.INFO) -> None:
    log.log(level, "%s", sentence)


def least_seconds(functions: Sequence[ImageFunction], image: Tensor) -> list[float]:
    """Return the least seconds of each function on `image`, interleaved."""
    begin = time.monotonic()

    def is_enough(_: int) -> bool:
        return time.monotonic() - begin > ENOUGH_SECONDS

    with torch.inference_mode():
        runs = [partial(function, image) for function in functions]
        timed = measure_interleaved(runs, AUTO_ROUNDS, after_round=is_enough)
    return [min(seconds) for seconds in timed]


@cache
def _timings() -> TimingCache:
    return TimingCache(cache_folder() / "engines-1.json")


def _fingerprint(module: nn.Module) -> str:
    """Hash what the time depends on: each tensor's shape and its density, in 1/16."""
    tensors = [
        f"{name} {tuple(p.shape)} {round(16 * int((p != 0).sum()) / max(1, p.numel()))}"
        for name, p in module.named_parameters()
    ]
    return f"{crc32(chr(10).join(tensors).encode()):08x}"
