"""Report of a plan: the parts that the engine and torch run in turns, what each costs and why."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.lower import READS_TORCH, TOO_SMALL

REPORT_ROUNDS = 3
"""Runs of the network, of which each part's least time is reported."""


def segment_report(engine: Compiled, size: Size) -> list[dict[str, Any]]:
    """List the parts of a compiled network for an image of `size` in the order in which they run.

    Each has `kind` (engine or torch), `operations`, `layers` (convolutions and linear layers), `ms`
    and `why`: why an island of torch is one, the commonest reason first. Raises `UsageError` where
    the engine runs no layer.
    """
    plan = engine.plan(size)
    image = torch.rand(1, size.channels, size.height, size.width)
    times: list[list[float]] = []
    for _ in range(1 + REPORT_ROUNDS):
        engine(image)
        times.append(plan.part_seconds())
    parts = [
        {
            "kind": part.kind,
            "operations": part.operations,
            "layers": part.layers,
            "ms": 1e3 * min(seconds),
            "why": _reasons(part.reasons),
        }
        for part, seconds in zip(plan.parts(), zip(*times[1:], strict=True), strict=True)
    ]
    return [part for part in parts if part["operations"]]


def _reasons(reasons: list[str]) -> list[str]:
    own = [reason for reason in reasons if reason not in (READS_TORCH, TOO_SMALL)]
    return [reason for reason, _ in Counter(own or reasons).most_common()]
