"""Image routers: branch selection for routed networks, with the FLOPs that it costs.

The learned classifier is compared with routers that need none: the true noise level, one fixed
branch, and the classifier's decisions in random order.
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
from thinlens.images.rows import RowReader
from thinlens.models.legacy_fingerprint import fingerprints
from thinlens.restoration.network import Network, device_of
from thinlens.restoration.tiled import Tiler
from thinlens.sparsity.cost import cost
from thinlens.sparsity.prunable import find_layers

PAPER_SIDE = 256
"""Height and width of the image, in pixels, for which ClassPruning counts FLOPs."""

BranchPolicy = Callable[[Tensor], Tensor]
"""Maps images `[B, C, H, W]` to their classes `[B]`."""


class RoutedRunner:
    """A routed network as a callable for `[B, C, H, W]` whose `branches` run in an engine."""

    def __init__(self, module: Routed, branches: Sequence[Network]) -> None:
        self.module, self._branches = module.eval(), branches

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        classes = self.module.classify(image)
        return self.module.dispatch(image, classes, lambda x, k: self._branches[k](x))


class ImageRouter:
    """Restores every image by one branch, in tiles if it is large, and records its class.

    A `Restorer`. The class is that of the whole image, as in the paper. `branches` run the
    branches, by default in torch; the classifier always runs in torch.
    """

    def __init__(
        self,
        module: Routed,
        policy: BranchPolicy | None = None,
        branches: Sequence[Network] | None = None,
    ) -> None:
        self.module = module.eval()
        self.classes: list[int] = []
        self._learned = policy is None
        self._policy = policy or module.classify
        channels = module.config.channels
        self._tilers = [Tiler(x, channels) for x in branches or module.extract_branches()]

    def route(self, images: Tensor) -> list[int]:
        """Return and record the classes of images `[B, C, H, W]`."""
        classes = [int(index) for index in self._policy(images)]
        self.classes += classes
        return classes

    def identities(self) -> tuple[str, ...]:
        return fingerprints(self.module)

    def manifest_fields(self) -> dict[str, Any]:
        return self._tilers[self.classes[-1]].manifest_fields() if self.classes else {}

    def bands(
        self,
        image: RowReader,
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
            (index,) = self.route(pixels[None].to(device_of(self.module)))
        yield from self._tilers[index].bands(image.reopen(), finish, check)

    def cost_report(self) -> dict[str, Any]:
        """Return the shares of the classes and the mean FLOPs of an image of 256x256.

        The classifier's FLOPs are included where it routes.
        """
        flops, extra, base = _flops(self.module)
        extra = extra if self._learned else 0
        counts = Counter(self.classes)
        images = max(1, len(self.classes))
        total = sum(counts[index] * (branch + extra) for index, branch in enumerate(flops))
        return {
            "shares": [counts[index] / images for index in range(len(flops))],
            "branch_flops": flops,
            "classifier_flops": extra,
            "mean_flops": total / images,
            "of_base": total / images / base,
        }


def fixed_branch(index: int) -> BranchPolicy:
    """Route every image to one branch: a static network."""
    return lambda image: torch.full((len(image),), index)


def by_noise_level(sigmas: Sequence[float], levels: Sequence[float], images: int) -> BranchPolicy:
    """Route images to the class of their true noise level among the training `levels`, rising.

    `images` come at each of `sigmas` in turn. Raises `UsageError` for a level that is not among
    `levels`, or where there is none.

    >>> by_noise_level([50.0, 15.0], (15.0, 25.0, 50.0), 1)(torch.zeros(2, 1, 8, 8))
    tensor([2, 0])
    """
    if not sigmas:
        raise UsageError("the oracle knows noise levels, and this task has none")
    for sigma in sigmas:
        if sigma not in levels:
            trained = ", ".join(map(str, levels)) or "none"
            raise UsageError(f"sigma {sigma}: the oracle knows {trained}")
    return in_sequence([sorted(levels).index(sigma) for sigma in sigmas for _ in range(images)])


def shuffled(classes: Sequence[int], seed: int) -> BranchPolicy:
    """Route by the same classes in random order: as many images to every branch, by chance."""
    return in_sequence(np.random.default_rng(seed).permutation(np.asarray(classes)).tolist())


def in_sequence(classes: Sequence[int]) -> BranchPolicy:
    """Route images to these classes, one after the other."""
    remaining = iter(classes)

    def policy(image: Tensor) -> Tensor:
        return torch.tensor([next(remaining) for _ in image])

    return policy


def _flops(module: Routed) -> tuple[list[int], int, int]:
    """Return the FLOPs of every branch, of the classifier and of the base network."""
    example = (1, module.config.channels, PAPER_SIDE, PAPER_SIDE)

    def dense(network: nn.Module) -> int:
        return cost(network, example, find_layers(network, example), {}, "classpruning").flops or 0

    return module.flops(example), dense(module.classifier), dense(module.network)
