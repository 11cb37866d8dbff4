"""Evaluation on a test folder: PSNR, SSIM and LPIPS by the protocol of the task."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.pixels import to_uint8
from thinlens.progress import Progress
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.tiled import restore_image
from thinlens.tasks.denoising import at_sigma
from thinlens.tasks.description import describe_pairs
from thinlens.tasks.folders import alternative_targets, open_pairs, read_pair
from thinlens.tasks.metrics import psnr, ssim
from thinlens.tasks.pairs import PairFiles
from thinlens.tasks.perceptual_distance import ImageDistance, lpips_distance
from thinlens.tasks.task import MetricProtocol, Task
from thinlens.tasks.trajectory_metrics import TRAJECTORY_PROTOCOL, best_over_trajectory


@dataclass(frozen=True)
class ImageScore:
    """The metrics of one image."""

    name: str
    psnr: float
    """In dB; infinite where the image equals its target, which JSON shows as null."""
    ssim: float
    lpips: float | None = None
    sigma: float | None = None
    """The noise level (standard deviation of 255), where images are evaluated at several."""
    branch: int | None = None
    """The branch of a routed network that restored it, 0 the thinnest."""

    def as_json(self) -> dict[str, Any]:
        """Return the image's entry in `per_image`, without values that are None."""
        optional = {"lpips": self.lpips, "sigma": self.sigma, "branch": self.branch}
        return {
            "name": self.name,
            "psnr": _finite(self.psnr),
            "ssim": self.ssim,
            **{key: value for key, value in optional.items() if value is not None},
        }


@dataclass(frozen=True)
class Evaluation:
    """A network's metrics on a folder, and their protocol."""

    per_image: tuple[ImageScore, ...]
    protocol: MetricProtocol
    synthetic: str = ""
    """The name of the degradation if the task synthesised inputs that a camera usually records."""
    without_lpips: str = ""
    """Why there is no LPIPS, for tasks whose papers report it."""
    targets: str = ""
    """The protocol of images that have several targets."""
    routing: Mapping[str, Any] = field(default_factory=dict)
    """The shares of the branches of a routed network, and their cost."""
    engine: str = ""
    """What ran the network: native, torch, or mixed; empty where nothing is recorded."""
    precision: Mapping[str, Any] = field(default_factory=dict)
    """The engine's precision and what was measured of it; empty for float32."""
    data: str = ""
    """What was taken for inputs and targets: folders of pairs, or clean images."""

    @property
    def images(self) -> int:
        """The number of evaluated images."""
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
        distances = [score.lpips for score in self.per_image if score.lpips is not None]
        return sum(distances) / self.images if len(distances) == self.images else None

    def as_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints except `macs` and `params`.

        The protocol has `"input"` where inputs are synthetic, `"targets"` where an image has
        several.
        """
        optional = {"input": self.synthetic, "targets": self.targets}
        remarks = {key: value for key, value in optional.items() if value}
        return {
            "images": self.images,
            "data": self.data,
            "psnr": _finite(self.psnr),
            "ssim": self.ssim,
            "lpips": self.lpips,
            "protocol": {**asdict(self.protocol), **remarks},
            **({"engine": self.engine} if self.engine else {}),
            **({"precision": dict(self.precision)} if self.precision else {}),
            "per_image": [score.as_json() for score in self.per_image],
            **({"per_sigma": self.per_sigma()} if self.per_sigma() else {}),
            **({"routing": dict(self.routing)} if self.routing else {}),
        }

    def per_sigma(self) -> list[dict[str, Any]]:
        """Return the mean metrics at every noise level, if there are several, as JSON prints them.

        For a routed network also the shares of the branches and the mean FLOPs of an image.
        """
        levels = sorted({score.sigma for score in self.per_image if score.sigma is not None})
        return [self._at(sigma) for sigma in levels]

    def _at(self, sigma: float) -> dict[str, Any]:
        scores = tuple(score for score in self.per_image if score.sigma == sigma)
        level = Evaluation(scores, self.protocol)
        entry: dict[str, Any] = {"sigma": sigma, "psnr": _finite(level.psnr), "ssim": level.ssim}
        if self.routing:
            costs = [x + self.routing["classifier_flops"] for x in self.routing["branch_flops"]]
            images = Counter(score.branch for score in scores)
            shares = [images[index] / len(scores) for index in range(len(costs))]
            mean = sum(share * cost for share, cost in zip(shares, costs, strict=True))
            entry |= {"shares": shares, "mean_flops": mean}
        return entry


def evaluate(
    network: Network | Restorer,
    task: Task,
    folder: Path,
    *,
    seed: int = 0,
    sigmas: Sequence[float] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Restore every input of `folder` (layouts: `tasks.folders`) and compare it with its target.

    With `sigmas`, at each of these noise levels in turn, with the same noise scaled. Random
    degradation depends on `seed` and the image's index alone. `progress` gets the PSNR of the last
    image. The first image that cannot be read or restored is an error: the mean over a part of a
    set is not its score.
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
            metrics = _metrics(restored, target, pair, level)
        except UsageError as error:
            raise UsageError(f"{pair.target}: {error}") from error
        lpips = distance(restored, target) if distance else None
        scores.append(ImageScore(pair.name, *metrics, lpips, sigma))
        if progress:
            progress(len(scores), len(levels) * len(pairs), {"psnr": scores[-1].psnr})
    synthetic = task.synthetic if any(pair.input is None for pair in pairs) else ""
    several = TRAJECTORY_PROTOCOL if any(pair.alternatives for pair in pairs) else ""
    return Evaluation(
        *(tuple(scores), task.protocol, synthetic, without_lpips),
        targets=several,
        data=describe_pairs(pairs, folder, task),
    )


def _metrics(restored: Tensor, target: Tensor, pair: PairFiles, task: Task) -> tuple[float, float]:
    """Return PSNR and SSIM; for several targets by their own protocol."""
    if pair.alternatives:
        moments = chain([target], alternative_targets(pair, task))
        return best_over_trajectory(restored, moments, task.protocol)
    return psnr(restored, target, task.protocol), ssim(restored, target, task.protocol)


def _perception(task: Task) -> tuple[ImageDistance | None, str]:
    """Return LPIPS for deblurring in colour, or why it is missing; other papers report none."""
    if task.name != "deblur" or task.channels != 3:
        return None, ""
    try:
        return lpips_distance(), ""
    except UsageError as missing:
        return None, str(missing)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
