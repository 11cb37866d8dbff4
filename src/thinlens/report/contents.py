"""Contents of a report: networks, images restored by them, layers, curves and how all was measured.

Plain values, from whatever run: `report.interactive` writes them as one HTML page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from torch import Tensor

from thinlens.images.tiles import Box
from thinlens.report.tables import Table
from thinlens.sparsity.summary import CostSummary

LARGEST_LOSS = 0.5
"""The decibels that the thin network at the top of a report may lose, if one loses so little."""

EQUAL_COST = 1.1
"""Multiply-adds, in multiples of the cheapest's, up to which networks count as equally cheap:
methods meet one budget to a layer's step."""


@dataclass(frozen=True)
class ReportLayer:
    """What one layer costs and keeps."""

    name: str
    shape: str
    """out x in x kernel."""
    n: int
    m: int
    kept: float
    """Fraction of its weights."""
    dense_macs: int
    microseconds: float | None = None
    """In the engine, on the timed input."""


@dataclass(frozen=True)
class ReportNetwork:
    """One network of a report; what was not measured is None or absent."""

    name: str
    dense: bool = False
    bytes: int | None = None
    macs: int | None = None
    parameters: int | None = None
    ms: float | None = None
    """Milliseconds of one input on the report's machine."""
    pruning_seconds: float | None = None
    psnr: Mapping[str, float] = field(default_factory=dict)
    """Mean in dB by test set."""
    ssim: Mapping[str, float] = field(default_factory=dict)
    layers: Sequence[ReportLayer] = ()

    @property
    def mean_psnr(self) -> float | None:
        """The mean over the test sets, in dB; None where none was evaluated."""
        return fmean(self.psnr.values()) if self.psnr else None


@dataclass(frozen=True)
class ImageVersion:
    """One image as one network restored it."""

    label: str
    image: Tensor
    """uint8 `[C, H, W]`; all versions of an image have one size."""
    psnr: float | None = None
    """In dB to the target, of the whole image."""


@dataclass(frozen=True)
class TileRoutes:
    """Which network of a bundle restored which tile of an image."""

    label: str
    """The version that a bundle restored."""
    networks: Sequence[str]
    """The most expensive first; the last one is free."""
    boxes: Sequence[Box]
    """The tiles, in pixels of what is shown of the result; some may lie outside of it."""
    routes: Sequence[int]
    """By tile, the index of its network."""

    @property
    def counts(self) -> list[int]:
        """The tiles of each network, in the whole image."""
        return [list(self.routes).count(index) for index in range(len(self.networks))]

    @property
    def sentence(self) -> str:
        """The counts as text.

        >>> TileRoutes("bundle", ["thin4", "bicubic"], [], [1, 0, 1]).sentence
        '3 tiles: 1 by thin4, 2 by bicubic'
        """
        pairs = zip(self.counts, self.networks, strict=True)
        parts = (f"{count} by {name}" for count, name in pairs)
        return f"{len(self.routes)} tiles: {', '.join(parts)}"


@dataclass(frozen=True)
class ReportImage:
    """One test image in two to four versions."""

    name: str
    versions: Sequence[ImageVersion]
    """The dense network's first, then thin ones; the original, if there is one, last."""
    remark: str = ""
    routes: TileRoutes | None = None
    """Of the version that a bundle restored."""

    @property
    def loss(self) -> float:
        """The decibels by which the first thin version is worse than the dense one."""
        dense, thin = self.versions[0].psnr, self.versions[1].psnr
        return 0.0 if dense is None or thin is None else dense - thin


@dataclass(frozen=True)
class EngineTime:
    """The milliseconds of a network in one engine and precision."""

    label: str
    ms: float
    """The median."""
    low: float
    """The 10th percentile."""
    high: float
    """The 90th percentile."""
    sparse: bool = False
    """Whether the engine skips zeros."""


@dataclass(frozen=True)
class CurvePanel:
    """Lines over the steps of a search or a training."""

    label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    """(step, value) by the name of the run."""


@dataclass(frozen=True)
class ReportContents:
    """Everything that a report shows."""

    networks: Sequence[ReportNetwork]
    """The dense network first."""
    machine: str = ""
    """CPU, threads, engine and the timed input's size; empty where nothing was timed."""
    dense_name: str = "the dense network"
    images: Sequence[ReportImage] = ()
    curves: Sequence[CurvePanel] = ()
    times: Sequence[EngineTime] = ()
    """Of one network in several engines."""
    tables: Sequence[Table] = ()
    paragraphs: Sequence[str] = ()
    """Sentences under the table of networks."""
    figures: Sequence[tuple[str, str]] = ()
    """Key figures, each with what it is, of a report without a thin network."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Protocol, command, versions, seeds and hashes, by what they are."""

    @property
    def dense(self) -> ReportNetwork | None:
        """The network that the others are compared with."""
        return next((network for network in self.networks if network.dense), None)

    @property
    def featured(self) -> ReportNetwork | None:
        """The thin network at the top: the cheapest that loses at most `LARGEST_LOSS` dB.

        Of several that are equally cheap (`EQUAL_COST`) it is the best. Where all lose more it is
        the one that loses least; where nothing was evaluated, the cheapest. None without a thin
        network.
        """
        thin = [x for x in self.networks if not x.dense and x.macs is not None]
        dense = self.dense.mean_psnr if self.dense else None
        scored = [x for x in thin if x.mean_psnr is not None]
        if dense is None or not scored:
            return min(thin, key=lambda x: x.macs or 0, default=None)
        good = [x for x in scored if dense - (x.mean_psnr or 0) <= LARGEST_LOSS]
        if not good:
            return max(scored, key=lambda x: x.mean_psnr or 0)
        least = min(x.macs or 0 for x in good)
        cheap = [x for x in good if (x.macs or 0) <= EQUAL_COST * least]
        return max(cheap, key=lambda x: x.mean_psnr or 0)

    @property
    def worst_first(self) -> list[ReportImage]:
        """The images, those that lose most first."""
        return sorted(self.images, key=lambda image: -image.loss)


def report_layers(
    summary: CostSummary, microseconds: Mapping[str, float] | None = None
) -> list[ReportLayer]:
    """Return the layers that have an N:M pattern, the most expensive first."""
    times = microseconds or {}
    layers = sorted(summary.pruned_layers, key=lambda layer: -layer.macs)
    return [
        ReportLayer(
            layer.name,
            "x".join(map(str, (layer.out_channels, layer.in_channels, *layer.kernel))),
            summary.n[layer.name],
            layer.m or 1,
            summary.kept_fraction(layer),
            layer.macs,
            times.get(layer.name),
        )
        for layer in layers
    ]
