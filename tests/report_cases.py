"""A small report with everything that a report can have."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from thinlens.images.tiles import Box
from thinlens.report.contents import (
    CurvePanel,
    EngineTime,
    ImageVersion,
    ReportContents,
    ReportImage,
    ReportLayer,
    ReportNetwork,
    TileRoutes,
)
from thinlens.report.tables import Table

NASTY = "</script><b>&\"'"
"""A name that would break a page that is not escaped."""


@cache
def picture(seed: int, height: int = 48, width: int = 64, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator).to(torch.uint8)


def report_image(name: str, loss: float, seed: int = 0) -> ReportImage:
    return ReportImage(
        name,
        (
            ImageVersion("dense", picture(seed), 30.0),
            ImageVersion("thin 1/4", picture(seed + 1), 30.0 - loss),
            ImageVersion("original", picture(seed + 2)),
        ),
    )


def routes() -> TileRoutes:
    """Four tiles of 24x32, of which the last column and a fifth tile are not shown."""
    boxes = [Box(y, x, y + 24, x + 32) for y in (0, 24) for x in (16, 48)]
    return TileRoutes(
        "thin 1/4", [NASTY, "bicubic"], [*boxes, Box(48, 16, 72, 48)], [0, 1, 1, 0, 0]
    )


def small_report() -> ReportContents:
    layers = [
        ReportLayer("body.0", "8x8x3x3", 8, 32, 0.25, 3_000_000, 81.5),
        ReportLayer(NASTY, "8x8x3x3", 16, 32, 0.5, 1_000_000),
    ]
    networks = [
        ReportNetwork("dense", True, 4000, 40_000, 1000, 8.0, None, {"A": 30.0}, {"A": 0.9}),
        ReportNetwork(
            "thin 1/4", False, 1000, 10_000, 250, 2.0, 5.0, {"A": 29.75}, {"A": 0.89}, layers
        ),
        ReportNetwork("thin 1/8", False, 600, 5_000, 120, 1.0, 5.0, {"A": 27.0}, {"A": 0.8}),
        ReportNetwork("not timed", False, 700, 6_000, 130),
    ]
    curves = [CurvePanel("loss", {"thin 1/4": [(1, 1.0), (2, 0.1), (3, 0.01)]})]
    return ReportContents(
        networks,
        "Times are of a machine.",
        "net-x4",
        [
            report_image("A, one", 0.1),
            replace(report_image(f"A, {NASTY}", 0.4, 5), routes=routes()),
        ],
        curves,
        [
            EngineTime("torch fp32", 8.0, 7.5, 9.0),
            EngineTime(f"thinlens {NASTY}", 2.0, 1.9, 2.4, sparse=True),
        ],
        [Table(("a", "b"), [("1", "2")], "Another table")],
        ["A sentence."],
        {"protocol": "PSNR of Y", "command": "thinlens report net-x4 thin", "hash": "abc"},
    )
