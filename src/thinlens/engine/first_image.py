"""Precisions that the first image settles: int16 without ranges, and the fastest one (`fast`).

An engine runs in float32 until it is called with an image. On that image, or crops of it, the
ranges of the convolutions' inputs are measured; for `fast` every precision of this CPU runs on a
crop, interleaved, and the fastest one whose result is that of float32 but for rounding is selected.
One line says what was measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.engine.compiled import Compiled
from thinlens.engine.input_ranges import measure_input_ranges
from thinlens.engine.native import fastest
from thinlens.engine.plan import InputRanges
from thinlens.engine.precision import FAST, PRECISIONS, find_precision
from thinlens.engine.timings import measure_interleaved
from thinlens.errors import UsageError
from thinlens.models.tile_position import tile_positions

log = logging.getLogger(__name__)

FAST_DECIBELS = 60.0
"""PSNR to float32's result from which a precision may be selected: a network of 33.6 dB, rather
more than super-resolution reaches, loses at most 0.01 dB then."""

COMPARED_SIDE = 128
"""Pixels of the sides of the crop that the precisions run on."""

COMPARED_ROUNDS = 3
"""Timed runs of each."""


class FirstImageEngine(Compiled):
    """A compiled network whose precision, or its ranges, the first image settles."""

    def __init__(
        self,
        module: nn.Module,
        threads: int,
        precision: str,
        input_ranges: InputRanges | None = None,
        least_work: float = 0.0,
    ) -> None:
        super().__init__(module, threads, least_work=least_work)
        self._requested, self._measured = precision, input_ranges
        self._settled = False
        self.decibels: float | None = None
        """PSNR to float32's result of the precision that was selected."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        if self._settled:
            return super().__deepcopy__(memo)
        module = super().__deepcopy__(memo).module
        return FirstImageEngine(module, *self._unsettled)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._settled:
            return super().__reduce__()
        return FirstImageEngine, (self.module, *self._unsettled)

    @property
    def _unsettled(self) -> tuple[int, str, InputRanges | None, float]:
        return self._context.threads, self._requested, self._measured, self.least_work

    @property
    def is_rounded(self) -> bool:
        return True  # and an image that is run to measure something must not settle it

    def execute(self, image: Tensor) -> Tensor:
        self._settle(image)
        return super().execute(image)

    def bands(self, image: Tensor) -> Iterator[Tensor]:
        self._settle(image)
        yield from super().bands(image)

    def precision_report(self) -> dict[str, Any]:
        report = super().precision_report()
        return report if self.decibels is None else {**report, "decibels": self.decibels}

    def _settle(self, image: Tensor) -> None:
        with self._lock:
            if self._settled or image.dim() != 4 or not image.numel():  # refused by `execute`
                return
            self._settled = True
            name, ranges = self._requested, self._measured
            if ranges is None:
                ranges = measure_input_ranges(self.module, [image[:1]], self._context.threads)
                self._ranges_from = "the first image"
            if name == FAST:
                name, self.decibels = self._fastest(image[:1], ranges)
                log.info("%s", _sentence(name, self.decibels))
            elif self._measured is None:
                log.info("precision int16: the ranges were measured on the first image")
            int16 = find_precision(name).int16
            self._use(fastest(name), ranges if int16 else None)

    def _in_precision(self, precision: str, ranges: InputRanges) -> Compiled:
        """Return the network compiled in a precision of `PRECISIONS`."""
        return Compiled(
            self.module,
            self._context.threads,
            fastest(precision),
            least_work=self.least_work,
            input_ranges=ranges if find_precision(precision).int16 else None,
        )

    def _fastest(self, image: Tensor, ranges: InputRanges) -> tuple[str, float | None]:
        """Return the fastest precision that is exact enough, and its PSNR to float32."""
        engines = {"fp32": self.in_float32()}
        for name in PRECISIONS:
            try:
                engines.setdefault(name, self._in_precision(name, ranges))
            except UsageError:  # this CPU does not have it
                continue
        crop = image[:, :, :COMPARED_SIDE, :COMPARED_SIDE].contiguous()
        with tile_positions(()), torch.inference_mode():
            results = {name: engine(crop) for name, engine in engines.items()}
            runs = [partial(engine, crop) for engine in engines.values()]
            seconds = [min(times) for times in measure_interleaved(runs, COMPARED_ROUNDS)]
        return select_precision(
            dict(zip(engines, seconds, strict=True)),
            {name: psnr_to(results["fp32"], result) for name, result in results.items()},
        )


def select_precision(
    seconds: Mapping[str, float], decibels: Mapping[str, float]
) -> tuple[str, float | None]:
    """Return the fastest of some precisions that is exact enough, and its PSNR to float32.

    >>> select_precision({"fp32": 2.0, "bf16": 1.0, "int16": 1.2}, {"bf16": 48.0, "int16": 70.0})
    ('int16', 70.0)
    """
    exact = [name for name in seconds if name == "fp32" or decibels[name] >= FAST_DECIBELS]
    name = min(exact, key=seconds.__getitem__)
    return name, None if name == "fp32" else decibels[name]


def psnr_to(expected: Tensor, result: Tensor) -> float:
    """Return the PSNR of a result to another one, in decibels for values in [0, 1].

    >>> round(psnr_to(torch.zeros(2), torch.full((2,), 0.001)))
    60
    """
    error = (result.detach().double() - expected.detach().double()).square().mean()
    return float(-10 * torch.log10(error))


def _sentence(name: str, decibels: float | None) -> str:
    near = "" if decibels is None else f", {decibels:.1f} dB to fp32"
    return f"precision fast: {name} runs{near}"
