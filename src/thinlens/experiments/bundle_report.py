"""Bundles in a report: what runs them, their costs, and how their tiles are distributed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from thinlens.adaptive.bundle_format import bundle_bytes
from thinlens.adaptive.options import RoutingOptions
from thinlens.adaptive.router import TileRouter
from thinlens.engine.compilation import compile as compile_module
from thinlens.experiments.report_runs import NamedBundle
from thinlens.report.contents import ReportNetwork
from thinlens.restoration.evaluation import Evaluation


def report_router(one: NamedBundle, routing: RoutingOptions | None, threads: int) -> TileRouter:
    """Return what runs a bundle, in the engine where it was built."""
    return one.bundle.restorer(partial(compile_module, threads=threads), routing, engine="native")


def bundle_row(
    one: NamedBundle,
    scores: Mapping[str, Evaluation],
    costs: Mapping[str, Any],
    ms: float | None,
) -> ReportNetwork:
    """Return a bundle as a network; `costs` are the router's, after all test images."""
    return ReportNetwork(
        one.name,
        False,
        bundle_bytes(one.folder),
        costs["hd_macs"],
        one.bundle.parameters,
        ms,
        None,
        {name: score.psnr for name, score in scores.items()},
        {name: score.ssim for name, score in scores.items()},
    )


def routing_sentence(name: str, costs: Mapping[str, Any]) -> str:
    """Return the shares of a bundle's networks.

    >>> costs = {"tiles": 4, "candidates": ["thin", "bicubic"], "shares": [0.75, 0.25]}
    >>> routing_sentence("b", costs)
    'b: 4 tiles of all test images, 75 % by thin, 25 % by bicubic.'
    """
    pairs = zip(costs["shares"], costs["candidates"], strict=True)
    shares = ", ".join(f"{100 * share:.0f} % by {candidate}" for share, candidate in pairs)
    return f"{name}: {costs['tiles']} tiles of all test images, {shares}."
