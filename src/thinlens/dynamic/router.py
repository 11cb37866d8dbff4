"""Which branch did every image go to, what did that cost, and who decided?

The learned classifier is compared with routers that need none: the true noise level, one branch
for all, and the classifier's own decisions dealt out at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinlens.dynamic.routed import Routed
from thinlens.errors import UsageError
from thinlens.images.pixels import to_float
from thinlens.images.rows import Rows
from thinlens.models.legacy_fingerprint import fingerprints
from thinlens.restoration.network import Network, device_of
from thinlens.restoration.tiled import Tiler
from thinlens.sparsity.cost import cost
from thinlens.sparsity.prunable import find_layers

PAPER_SIDE = 256
"""Height and width of the image at which ClassPruning counts FLOPs."""

BranchPolicy = Callable[[Tensor], Tensor]
"""Maps images `[B, C, H, W]` to their classes `[B]`."""


class RoutedRunner:
    """A network that routes as a callable for `[B, C, H, W]`, its `branches` run by engines."""

    def __init__(self, module: Routed, branches: Sequence[Network]) -> None:
        self.module, self._branches = module.eval(), branches

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        classes = self.module.classify(image)
        return self.module.dispatch(image, classes, lambda part, k: self._branches[k](part))


class ImageRouter:
    """Restores every image whole by one branch, in tiles if it is large, and remembers which.

    A `Restorer`; a class is chosen from the whole image, as in the paper. `branches` are what runs
    them, by default torch; the classifier is torch's.
    """

    def __init__(
        self,
        module: Routed,
        choose: BranchPolicy | None = None,
        branches: Sequence[Network] | None = None,
    ) -> None:
        self.module = module.eval()
        self.classes: list[int] = []
        self._learned = choose is None
        self._choose = choose or module.classify
        channels = module.config.channels
        self._tilers = [Tiler(branch, channels) for branch in branches or module.extract_branches()]

    def route(self, images: Tensor) -> list[int]:
        """Choose and remember the classes of images `[B, C, H, W]`."""
        chosen = [int(index) for index in self._choose(images)]
        self.classes += chosen
        return chosen

    def identities(self) -> tuple[str, ...]:
        return fingerprints(self.module)

    def account(self) -> dict[str, Any]:
        return self._tilers[self.classes[-1]].manifest_fields() if self.classes else {}

    def bands(
        self,
        image: Rows,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield the result from top to bottom, as `Tiler.bands`; the image is read twice."""
        channels, height, _ = image.shape
        if channels != self.module.config.channels:
            raise UsageError(
                f"an image of {channels} channels: the classifier takes "
                f"{self.module.config.channels}"
            )
        whole = image.rows(0, height)
        pixels = to_float(whole) if whole.dtype == torch.uint8 else whole
        with torch.inference_mode():
            (chosen,) = self.route(pixels[None].to(device_of(self.module)))
        yield from self._tilers[chosen].bands(image.again(), finish, check)

    def bill(self) -> dict[str, Any]:
        """Return the shares of the classes and the mean FLOPs of an image of 256x256.

        The classifier's are included where it was asked.
        """
        flops, extra, base = _flops(self.module)
        extra = extra if self._learned else 0
        counts = Counter(self.classes)
        images = max(1, len(self.classes))
        total = sum(counts[index] * (one + extra) for index, one in enumerate(flops))
        return {
            "shares": [counts[index] / images for index in range(len(flops))],
            "branch_flops": flops,
            "classifier_flops": extra,
            "mean_flops": total / images,
            "of_base": total / images / base,
        }


def fixed_branch(index: int) -> BranchPolicy:
    """Send every image to one branch: a static network, or the oracle at one noise level."""
    return lambda image: torch.full((len(image),), index)


def by_noise_level(sigmas: Sequence[float], levels: Sequence[float], images: int) -> BranchPolicy:
    """Send images to the class of their true noise level among those of training, rising.

    `images` come at each of `sigmas` in turn. Raises `UsageError` for a level that was not trained
    on, or where there is none.
    """
    if not sigmas:
        raise UsageError("the oracle knows noise levels, and this task has none")
    for sigma in sigmas:
        if sigma not in levels:
            known = ", ".join(map(str, levels)) or "none"
            raise UsageError(f"sigma {sigma}: the oracle knows {known}")
    return in_sequence([sorted(levels).index(sigma) for sigma in sigmas for _ in range(images)])


def shuffled(classes: Sequence[int], seed: int) -> BranchPolicy:
    """Deal out the same classes in random order: as many images to every branch, by chance."""
    return in_sequence(np.random.default_rng(seed).permutation(np.asarray(classes)).tolist())


def in_sequence(classes: Sequence[int]) -> BranchPolicy:
    """Send images to these classes, one after the other."""
    place = iter(classes)

    def choose(image: Tensor) -> Tensor:
        return torch.tensor([next(place) for _ in image])

    return choose


def _flops(module: Routed) -> tuple[list[int], int, int]:
    """Return the FLOPs of every branch, of the classifier and of the base network."""
    example = (1, module.config.channels, PAPER_SIDE, PAPER_SIDE)

    def dense(part: nn.Module) -> int:
        return cost(part, example, find_layers(part, example), {}, "classpruning").flops or 0

    return module.flops(example), dense(module.classifier), dense(module.network)
