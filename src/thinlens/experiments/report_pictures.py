"""Pictures of a report: the images that lose most, restored by at most three networks.

Where one of them is a bundle, with the network of each tile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from thinlens.adaptive.router import TileRouter
from thinlens.images.pixels import to_uint8
from thinlens.images.tiles import Box
from thinlens.report.contents import ImageVersion, ReportContents, ReportImage, TileRoutes
from thinlens.report.side_by_side import most_detailed_square
from thinlens.restoration.evaluation import Evaluation
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.tiled import restore_image
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.metrics import psnr
from thinlens.tasks.task import Task

MOST_SIDE = 512
"""Longest side of a shown image, in pixels: of larger ones the most detailed square is shown."""


def report_images(
    contents: ReportContents,
    networks: Mapping[str, Network | Restorer],
    task: Task,
    tests: Mapping[str, Path],
    scores: Mapping[str, Mapping[str, Evaluation]],
    most: int,
) -> list[ReportImage]:
    """Return the `most` images that the featured network restores worse than the dense one does.

    Each is shown as the dense network, the featured one and a bundle, else the cheapest network,
    restore it, beside the original. `networks` run them by name, `scores` are their evaluations of
    `tests`.
    """
    dense, thin = contents.dense, contents.featured
    if dense is None or thin is None:
        return []
    thins = [x for x in contents.networks if not x.dense and x.macs is not None]
    bundles = [name for name, network in networks.items() if isinstance(network, TileRouter)]
    third = bundles[0] if bundles else min(thins, key=lambda x: x.macs or 0).name
    names = list(dict.fromkeys((dense.name, thin.name, third)))
    losses = {
        (test, index): pair[0].psnr - pair[1].psnr
        for test in tests
        for index, pair in enumerate(
            zip(scores[dense.name][test].per_image, scores[thin.name][test].per_image, strict=True)
        )
    }
    worst = sorted(losses, key=lambda place: -losses[place])[:most]
    chosen = {name: networks[name] for name in names}
    return [compared_image(task, test, tests[test], index, chosen) for test, index in worst]


def compared_image(
    task: Task, test: str, folder: Path, index: int, networks: Mapping[str, Network | Restorer]
) -> ReportImage:
    """Return image number `index` of a test set as each of `networks` restores it.

    The dense network is the first of them; the original is the last version.
    """
    pair = open_pairs(folder, task)[index]
    image, target = read_pair(pair, task, index, seed=0)
    square = shown_square(target)
    versions, routes = [], None
    for name, network in networks.items():
        restored = to_uint8(restore_image(network, image))
        quality = psnr(restored, target, task.protocol)
        finite = quality if math.isfinite(quality) else None
        versions.append(ImageVersion(name, restored[square].clone(), finite))
        if isinstance(network, TileRouter):
            routes = tile_routes(name, network, task.scale, square)
    versions.append(ImageVersion("original", target[square].clone()))
    whole = f"{target.shape[-1]}x{target.shape[-2]}"
    cut = tuple(versions[0].image.shape) != tuple(target.shape)
    remark = f"A square of {whole} pixels; decibels are of the whole image." if cut else ""
    return ReportImage(f"{test}, {Path(pair.name).name}", versions, remark, routes)


def tile_routes(
    label: str, router: TileRouter, scale: int, shown: tuple[slice, slice, slice]
) -> TileRoutes | None:
    """Return the network of each tile of the image that `router` restored last."""
    if router.last is None:
        return None
    top, left = shown[1].start, shown[2].start
    rows = router.tiling.balanced_rows(*router.last.size)
    cores = [tile.core for row in rows for tile in row]
    boxes = [
        Box(*(scale * side - start for side, start in zip(sides, (top, left) * 2, strict=True)))
        for sides in ((core.top, core.left, core.bottom, core.right) for core in cores)
    ]
    routes = router.last.routes.tolist()
    return TileRoutes(label, router.candidate_names, boxes, routes)


def shown_square(image: Tensor) -> tuple[slice, slice, slice]:
    """Return what of an image is shown: all of it, or its most detailed square.

    >>> import torch
    >>> shown_square(torch.zeros(3, 20, 30))
    (slice(None, None, None), slice(0, 20, None), slice(0, 30, None))
    """
    height, width = image.shape[-2:]
    if max(height, width) <= MOST_SIDE:
        return slice(None), slice(0, height), slice(0, width)
    side = min(MOST_SIDE, height, width)
    top, left = most_detailed_square(image.float() / 255, side)
    return slice(None), slice(top, top + side), slice(left, left + side)
