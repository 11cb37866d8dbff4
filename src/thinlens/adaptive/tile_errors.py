"""How large is the error of every candidate on a tile?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low

import numpy as np
import torch
from torch import Tensor

from thinlens.adaptive.candidates import Candidate
from thinlens.adaptive.error_notes import ErrorNotes
from thinlens.errors import RunError, UsageError
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.reading import image_size
from thinlens.images.tiles import Box, Tile, Tiling
from thinlens.models.fingerprint import settings_text
from thinlens.models.tile_position import Place, placed
from thinlens.progress import Progress
from thinlens.restoration.network import Network, device_of, evaluating
from thinlens.restoration.tiled import out_of_memory
from thinlens.tasks.crops import turned
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.pairs import PairFiles
from thinlens.tasks.task import Task

LEAST_ERROR = 1e-8
"""Added to an MSE before its logarithm; nothing can be restored better."""

TILE_BATCH = 16
"""Tiles that go through a network at once: the memory does not depend on the image."""

HELD_OUT = 10
"""Every tenth image judges the estimator and does not teach it."""


@dataclass(frozen=True, eq=False)
class TileErrors:
    """Tiles of one size and what is known of them; also batches to learn it from."""

    tiles: Tensor
    """Float `[T, C, h, w]` in [0, 1]."""
    errors: Tensor
    """log10 of the MSE of every candidate `[T, n]`, the dearest first."""
    batch_size: int = 64

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return some tiles, all flipped and turned alike, and their errors."""
        generator = np.random.default_rng([seed, epoch, step])
        places = torch.from_numpy(generator.integers(len(self.tiles), size=self.batch_size))
        turn = int(generator.integers(8))
        return turned(self.tiles[places], turn).contiguous(), self.errors[places]


@dataclass(frozen=True)
class ErrorMeasurement:
    """By what, for what and how windows are restored."""

    candidates: Sequence[Candidate]
    task: Task
    tiling: Tiling
    seed: int = 0

    def identity(self, folder: Path) -> str:
        """Name what the errors on a folder's images depend on but for the images."""
        settings = (settings_text(self.task.name, self.task), settings_text("tiling", self.tiling))
        names = [c.identity for c in self.candidates]
        return " ".join(map(str, (folder.resolve(), *settings, self.seed, *names)))


def measure_tile_errors(
    measuring: ErrorMeasurement, folder: Path, notes: Path | None = None, progress: Progress | None = None
) -> tuple[TileErrors, TileErrors, int]:
    """Restore windows of a folder's training images by every candidate.

    Returns those to learn from, those of every tenth image to judge by, and how many images there
    are. Windows are as large as tiles, or as half of the images are, where tiles are larger than
    training images; smaller images are left out. What is in the file `notes` of an earlier,
    interrupted call is not measured again.
    """
    pairs = open_pairs(folder, measuring.task, "train")
    measuring = replace(measuring, tiling=_fitting(measuring, pairs))
    known = ErrorNotes(notes, measuring.identity(folder)) if notes else None
    parts: tuple[list[TileErrors], list[TileErrors]] = ([], [])
    used = 0
    for index, pair in enumerate(pairs):
        found = _windows(measuring, pair, index, known)
        if found is not None:
            held_out = used % HELD_OUT == 1
            parts[held_out].append(found)
            used += 1
        if progress:
            progress(index + 1, len(pairs), {})
    if not all(parts):
        height, width = outer_size(measuring.tiling)
        raise UsageError(
            f"{folder} has {used} images of at least {width}x{height} input pixels: wanted 2 or "
            "more, to learn from one and judge by another"
        )
    learnt, judged = (_joined(part) for part in parts)
    return learnt, judged, used


def _fitting(measuring: ErrorMeasurement, pairs: Sequence[PairFiles]) -> Tiling:
    """Return the tiling with cores that, with their margins, half of the images can hold."""
    task, tiling = measuring.task, measuring.tiling
    targets = [torch.empty(0, *image_size(pair.target)) for pair in pairs]
    known = [[side // task.scale for side in task.align(x).shape[-2:]] for x in targets]
    typical = [median_low(lengths) for lengths in zip(*known, strict=True)]
    rows, columns = (
        max(1, min(core, length - 2 * margin))
        for core, length, margin in zip(tiling.core, typical, tiling.margin, strict=True)
    )
    return replace(tiling, core=(rows, columns))


def outer_size(tiling: Tiling) -> tuple[int, int]:
    """Return the (height, width) of a tile that touches no border."""
    height, width = (c + 2 * m for c, m in zip(tiling.core, tiling.margin, strict=True))
    return height, width


def run_tiles(network: Network, tiles: Tensor, places: Sequence[Place] = ()) -> Tensor:
    """Restore float tiles `[T, C, h, w]` some at a time; what does not fit is halved.

    `places` say where each lies in its image, for networks that ask.
    """
    parts: list[Tensor] = []
    done, batch = 0, TILE_BATCH
    while done < len(tiles):
        some = tiles[done : done + batch]
        try:
            here = places[done : done + batch]
            with torch.inference_mode(), evaluating(network), placed(here):
                large = network(some.to(device_of(network))).float().cpu()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(some) == 1:
                size = f"{tiles.shape[-1]}x{tiles.shape[-2]}"
                raise RunError(f"a tile of {size} does not fit into memory") from error
            batch = len(some) // 2
            continue
        if not torch.isfinite(large).all():
            raise RunError("the network gave NaN or infinity: its weights may be damaged")
        parts.append(large.clamp(0, 1))
        done += len(some)
    return torch.cat(parts)


def _windows(
    measuring: ErrorMeasurement, pair: PairFiles, index: int, notes: ErrorNotes | None
) -> TileErrors | None:
    """Restore windows of one pair, inside it; None where no tile fits in."""
    task, tiling = measuring.task, measuring.tiling
    image, target = read_pair(pair, task, index, measuring.seed)
    height, width = image.shape[-2:]
    rows, columns = (
        _starts(length, side, core)
        for length, side, core in zip((height, width), outer_size(tiling), tiling.core, strict=True)
    )
    boxes = [Box(y, x, y + h, x + w) for h, w in [outer_size(tiling)] for y in rows for x in columns]
    if not boxes:
        return None
    tiles = torch.stack([image[:, b.top : b.bottom, b.left : b.right] for b in boxes])
    cores = [Tile(_inner(box, tiling.margin), box) for box in boxes]
    noted = notes.get(pair.name) if notes else None
    if noted is not None and noted.shape == (len(tiles), len(measuring.candidates)):
        return TileErrors(tiles, noted)
    large = (run_tiles(candidate.network, tiles) for candidate in measuring.candidates)
    squares = [core_mse(pixels, cores, target, task.scale) for pixels in large]
    errors = (torch.stack(squares, dim=1) + LEAST_ERROR).log10().float()
    if notes:
        notes.add(pair.name, errors)
    return TileErrors(tiles, errors)


def core_mse(large: Tensor, tiles: Sequence[Tile], target: Tensor, scale: int) -> Tensor:
    """Return the MSE of tiles' cores, in [0, 1] and rounded to 8 bits as results are, `[T]`."""
    found = []
    for pixels, tile in zip(large, tiles, strict=True):
        rows, columns = tile.core.inside(tile.outer, scale)
        whole = Box(0, 0, target.shape[-2], target.shape[-1])
        there = target[:, *tile.core.inside(whole, scale)]
        difference = to_float(to_uint8(pixels[:, rows, columns])) - to_float(there)
        found.append(difference.double().square().mean())
    return torch.stack(found)


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
    """Return where windows of `side` begin, so that they reach the end."""
    if length < side:
        return []
    return sorted({*range(0, length - side, step), length - side})


def _joined(parts: Sequence[TileErrors]) -> TileErrors:
    return TileErrors(torch.cat([p.tiles for p in parts]), torch.cat([p.errors for p in parts]))
