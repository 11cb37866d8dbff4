"""How well does a network restore a folder of test images?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.images.pixels import to_uint8
from thinlens.restoration.network import Network
from thinlens.restoration.whole import restore_image
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.metrics import psnr, ssim
from thinlens.tasks.task import Judgement, Task

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (images done, images in all, the last one's figures)."""


@dataclass(frozen=True)
class Score:
    """One image's figures."""

    name: str
    psnr: float
    """In dB; infinite where the image equals its target, which JSON shows as null."""
    ssim: float


@dataclass(frozen=True)
class Evaluation:
    """A network's figures on a folder, and by which protocol."""

    per_image: tuple[Score, ...]
    protocol: Judgement

    @property
    def images(self) -> int:
        """How many images were judged."""
        return len(self.per_image)

    @property
    def psnr(self) -> float:
        """The mean of the images' PSNR in dB."""
        return sum(score.psnr for score in self.per_image) / self.images

    @property
    def ssim(self) -> float:
        """The mean of the images' SSIM."""
        return sum(score.ssim for score in self.per_image) / self.images

    def as_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints but for `macs` and `params`."""
        return {
            "images": self.images,
            "psnr": _finite(self.psnr),
            "ssim": self.ssim,
            "lpips": None,
            "protocol": asdict(self.protocol),
            "per_image": [{**asdict(s), "psnr": _finite(s.psnr)} for s in self.per_image],
        }


def evaluate(
    network: Network, task: Task, folder: Path, *, seed: int = 0, progress: Progress | None = None
) -> Evaluation:
    """Restore every input of `folder` (layouts: `tasks.folders`) and judge it by the task.

    Random degradation depends on `seed` and the image's place in the list alone. The first image
    that cannot be read or restored ends it: a score over a part of a set is not its score.
    """
    pairs = open_pairs(folder, task)
    scores: list[Score] = []
    for index, pair in enumerate(pairs):
        image, target = read_pair(pair, task, index, seed)
        restored = to_uint8(restore_image(network, image))
        try:
            figures = [metric(restored, target, task.judgement) for metric in (psnr, ssim)]
        except UsageError as error:
            raise UsageError(f"{pair.target}: {error}") from error
        scores.append(Score(pair.name, *figures))
        if progress:
            progress(len(scores), len(pairs), {"psnr": scores[-1].psnr})
    return Evaluation(tuple(scores), task.judgement)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
