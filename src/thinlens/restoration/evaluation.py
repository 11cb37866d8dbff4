"""How well does a network restore a folder of test images?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.pixels import to_uint8
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.whole import restore_image
from thinlens.tasks.denoising import at_sigma
from thinlens.tasks.folders import further_targets, open_pairs, read_pair
from thinlens.tasks.metrics import psnr, ssim
from thinlens.tasks.moments import PROTOCOL, best_of_moments
from thinlens.tasks.pairs import PairFiles
from thinlens.tasks.perception import Distance, lpips_distance
from thinlens.tasks.task import Judgement, Task

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (images done, images in all, the last one's figures)."""


@dataclass(frozen=True)
class ImageScore:
    """One image's figures."""

    name: str
    psnr: float
    """In dB; infinite where the image equals its target, which JSON shows as null."""
    ssim: float
    lpips: float | None = None
    sigma: float | None = None
    """The noise level, where images were judged at several."""
    branch: int | None = None
    """Which branch of a routed network restored it, 0 the thinnest."""

    def as_json(self) -> dict[str, Any]:
        """Return the image's entry in `per_image`; what is not known is left out."""
        told = {"name": self.name, "psnr": _finite(self.psnr), "ssim": self.ssim}
        own = {"sigma": self.sigma, "branch": self.branch}
        return {**told, **{key: value for key, value in own.items() if value is not None}}


@dataclass(frozen=True)
class Evaluation:
    """A network's figures on a folder, and by which protocol."""

    per_image: tuple[ImageScore, ...]
    protocol: Judgement
    synthetic: str = ""
    """What the inputs are called if the task made what a camera usually makes."""
    without_lpips: str = ""
    """Why there is no LPIPS, where the task is one whose papers print it."""
    targets: str = ""
    """How images were judged that have several targets."""
    routing: Mapping[str, Any] = field(default_factory=dict)
    """Where a class-pruned network sent the images, and what that cost."""

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

    @property
    def lpips(self) -> float | None:
        """The mean of the images' LPIPS, or None if it was not measured."""
        known = [score.lpips for score in self.per_image if score.lpips is not None]
        return sum(known) / self.images if len(known) == self.images else None

    def as_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints but for `macs` and `params`.

        The protocol says `"input"` where inputs are synthetic, `"targets"` where an image has
        several.
        """
        said = {"input": self.synthetic, "targets": self.targets}
        made = {key: value for key, value in said.items() if value}
        return {
            "images": self.images,
            "psnr": _finite(self.psnr),
            "ssim": self.ssim,
            "lpips": self.lpips,
            "protocol": {**asdict(self.protocol), **made},
            "per_image": [score.as_json() for score in self.per_image],
            **({"per_sigma": self.per_sigma()} if self.per_sigma() else {}),
            **({"routing": dict(self.routing)} if self.routing else {}),
        }

    def per_sigma(self) -> list[dict[str, Any]]:
        """Return the mean figures at every noise level, if there are several, as JSON prints them.

        Of a routed network also the shares of the branches there and the mean FLOPs of an image.
        """
        levels = sorted({score.sigma for score in self.per_image if score.sigma is not None})
        return [self._at(sigma) for sigma in levels]

    def _at(self, sigma: float) -> dict[str, Any]:
        scores = tuple(score for score in self.per_image if score.sigma == sigma)
        part = Evaluation(scores, self.protocol)
        found: dict[str, Any] = {"sigma": sigma, "psnr": _finite(part.psnr), "ssim": part.ssim}
        if self.routing:
            costs = [x + self.routing["classifier_flops"] for x in self.routing["branch_flops"]]
            taken = Counter(score.branch for score in scores)
            shares = [taken[index] / len(scores) for index in range(len(costs))]
            mean = sum(share * cost for share, cost in zip(shares, costs, strict=True))
            found |= {"shares": shares, "mean_flops": mean}
        return found


def evaluate(
    network: Network | Restorer,
    task: Task,
    folder: Path,
    *,
    seed: int = 0,
    sigmas: Sequence[float] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Restore every input of `folder` (layouts: `tasks.folders`) and judge it by the task.

    Where `sigmas` are given, at each of these noise levels in turn, with the same noise but for
    its strength.
    Random degradation depends on `seed` and the image's place in the list alone. The first image
    that cannot be read or restored ends it: a score over a part of a set is not its score.
    """
    pairs = open_pairs(folder, task)
    distance, without_lpips = _perception(task)
    scores: list[ImageScore] = []
    levels: list[tuple[float | None, Task]] = [(sigma, at_sigma(task, sigma)) for sigma in sigmas]
    levels = levels or [(None, task)]
    for (sigma, level), (index, pair) in product(levels, enumerate(pairs)):
        image, target = read_pair(pair, level, index, seed)
        restored = to_uint8(restore_image(network, image))
        try:
            figures = _figures(restored, target, pair, level)
        except UsageError as error:
            raise UsageError(f"{pair.target}: {error}") from error
        seen = distance(restored, target) if distance else None
        scores.append(ImageScore(pair.name, figures[0], figures[1], seen, sigma))
        if progress:
            progress(len(scores), len(levels) * len(pairs), {"psnr": scores[-1].psnr})
    made = task.synthetic if any(pair.input is None for pair in pairs) else ""
    several = PROTOCOL if any(pair.others for pair in pairs) else ""
    return Evaluation(tuple(scores), task.judgement, made, without_lpips, targets=several)


def _figures(restored: Tensor, target: Tensor, pair: PairFiles, task: Task) -> tuple[float, float]:
    """Return PSNR and SSIM; where there are several targets, by their protocol."""
    if pair.others:
        moments = chain([target], further_targets(pair, task))
        return best_of_moments(restored, moments, task.judgement)
    return psnr(restored, target, task.judgement), ssim(restored, target, task.judgement)


def _perception(task: Task) -> tuple[Distance | None, str]:
    """Return LPIPS for deblurring in colour, or why there is none; other papers print none."""
    if task.name != "deblur" or task.channels != 3:
        return None, ""
    try:
        return lpips_distance(), ""
    except UsageError as missing:
        return None, str(missing)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
