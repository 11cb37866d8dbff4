"""Tile errors: measure the MSE of every candidate on tiles of training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low

import numpy as np
import torch
from torch import Tensor

from thinlens.adaptive.candidates import Candidate
from thinlens.adaptive.error_log import ErrorLog
from thinlens.errors import UsageError
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.reading import image_size
from thinlens.images.tiles import Box, Tile, Tiling
from thinlens.models.fingerprint import settings_text
from thinlens.progress import Progress
from thinlens.restoration.network import run_tiles
from thinlens.tasks.crops import apply_symmetry
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.pairs import PairFiles
from thinlens.tasks.task import Task

MIN_MSE = 1e-8
"""Added to an MSE, of values in [0, 1], before its logarithm."""

HELD_OUT_EVERY = 10
"""Every tenth image is held out to evaluate the estimator."""


@dataclass(frozen=True, eq=False)
class TileErrors:
    """Tiles of one size and the errors of all candidates; also the estimator's training data."""

    tiles: Tensor
    """Float `[T, C, h, w]` in [0, 1]."""
    errors: Tensor
    """log10 of the MSE of every candidate `[T, n]`, the most expensive first."""
    batch_size: int = 64

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return random tiles, all flipped and rotated alike, and their errors."""
        generator = np.random.default_rng([seed, epoch, step])
        indices = torch.from_numpy(generator.integers(len(self.tiles), size=self.batch_size))
        turn = int(generator.integers(8))
        return apply_symmetry(self.tiles[indices], turn).contiguous(), self.errors[indices]


@dataclass(frozen=True)
class ErrorMeasurement:
    """Settings of an error measurement."""

    candidates: Sequence[Candidate]
    task: Task
    tiling: Tiling
    seed: int = 0
    """Of random degradation."""

    def cache_key(self, folder: Path) -> str:
        """Return everything that the errors on a folder depend on except the images."""
        settings = (settings_text(self.task.name, self.task), settings_text("tiling", self.tiling))
        names = [c.identity for c in self.candidates]
        return " ".join(map(str, (folder.resolve(), *settings, self.seed, *names)))


def measure_tile_errors(
    measurement: ErrorMeasurement,
    folder: Path,
    log: Path | None = None,
    progress: Progress | None = None,
) -> tuple[TileErrors, TileErrors, int]:
    """Restore windows of a folder's training images by every candidate.

    Returns the training samples, the held-out samples (those of every tenth image), and the number
    of images. Windows are as large as tiles with their margins, or as half of the images are, where
    tiles exceed training images; smaller images are skipped. The file `log` of an interrupted call
    is resumed.
    """
    pairs = open_pairs(folder, measurement.task, "train")
    measurement = replace(measurement, tiling=_fitting(measurement, pairs))
    error_log = ErrorLog(log, measurement.cache_key(folder)) if log else None
    samples: tuple[list[TileErrors], list[TileErrors]] = ([], [])
    count = 0
    for index, pair in enumerate(pairs):
        errors = _pair_errors(measurement, pair, index, error_log)
        if errors is not None:
            samples[count % HELD_OUT_EVERY == 1].append(errors)
            count += 1
        if progress:
            progress(index + 1, len(pairs), {})
    if not all(samples):
        height, width = outer_size(measurement.tiling)
        raise UsageError(
            f"{folder} has {count} images of at least {width}x{height} input pixels: wanted 2 or "
            "more, one to train the estimator and one to evaluate it"
        )
    training, held_out = (_joined(errors) for errors in samples)
    return training, held_out, count


def _fitting(measurement: ErrorMeasurement, pairs: Sequence[PairFiles]) -> Tiling:
    """Return the tiling with cores that fit, with their margins, into half of the images."""
    task, tiling = measurement.task, measurement.tiling
    targets = [torch.empty(0, *image_size(pair.target)) for pair in pairs]
    sizes = [[side // task.scale for side in task.align(x).shape[-2:]] for x in targets]
    typical = [median_low(lengths) for lengths in zip(*sizes, strict=True)]
    rows, columns = (
        max(1, min(core, length - 2 * margin))
        for core, length, margin in zip(tiling.core, typical, tiling.margin, strict=True)
    )
    return replace(tiling, core=(rows, columns))


def outer_size(tiling: Tiling) -> tuple[int, int]:
    """Return the (height, width) of a tile with all its margins."""
    height, width = (c + 2 * m for c, m in zip(tiling.core, tiling.margin, strict=True))
    return height, width


def _pair_errors(
    measurement: ErrorMeasurement, pair: PairFiles, index: int, log: ErrorLog | None
) -> TileErrors | None:
    """Restore windows of one pair; None where no tile fits into it."""
    task, tiling = measurement.task, measurement.tiling
    image, target = read_pair(pair, task, index, measurement.seed)
    height, width = image.shape[-2:]
    outer, core = outer_size(tiling), tiling.core
    tops, lefts = _starts(height, outer[0], core[0]), _starts(width, outer[1], core[1])
    boxes = [Box(y, x, y + outer[0], x + outer[1]) for y in tops for x in lefts]
    if not boxes:
        return None
    tiles = torch.stack([image[:, b.top : b.bottom, b.left : b.right] for b in boxes])
    cores = [Tile(_inner(box, tiling.margin), box) for box in boxes]
    logged = log.get(pair.name) if log else None
    if logged is not None and logged.shape == (len(tiles), len(measurement.candidates)):
        return TileErrors(tiles, logged)
    restored = (run_tiles(candidate.network, tiles) for candidate in measurement.candidates)
    mses = [core_mse(pixels, cores, target, task.scale) for pixels in restored]
    errors = (torch.stack(mses, dim=1) + MIN_MSE).log10().float()
    if log:
        log.add(pair.name, errors)
    return TileErrors(tiles, errors)


def core_mse(restored: Tensor, tiles: Sequence[Tile], target: Tensor, scale: int) -> Tensor:
    """Return the MSE of tiles' cores, in [0, 1] and rounded to 8 bits as results are, `[T]`."""
    mses = []
    for pixels, tile in zip(restored, tiles, strict=True):
        rows, columns = tile.core.slices_in(tile.outer, scale)
        whole = Box(0, 0, target.shape[-2], target.shape[-1])
        expected = target[:, *tile.core.slices_in(whole, scale)]
        difference = to_float(to_uint8(pixels[:, rows, columns])) - to_float(expected)
        mses.append(difference.double().square().mean())
    return torch.stack(mses)


def _inner(box: Box, margin: tuple[int, int]) -> Box:
    down, right = margin
    return replace(
        box,
        top=box.top + down,
        bottom=box.bottom - down,
        left=box.left + right,
        right=box.right - right,
    )


def _starts(length: int, side: int, step: int) -> list[int]:
    """Return the starts of windows of `side`, the last of which reaches the end."""
    if length < side:
        return []
    return sorted({*range(0, length - side, step), length - side})


def _joined(errors: Sequence[TileErrors]) -> TileErrors:
    return TileErrors(torch.cat([e.tiles for e in errors]), torch.cat([e.errors for e in errors]))
