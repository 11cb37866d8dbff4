"""The sentence on the engine's precision that commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def precision_lines(report: Mapping[str, Any]) -> list[str]:
    """Return what ran and what was measured of it in one sentence; nothing for float32.

    >>> precision_lines({"requested": "fast", "precision": "int16", "decibels": 71.26})
    ['precision fast: int16 ran, 71.3 dB to fp32']
    """
    if not report:
        return []
    parts = [f"precision {report['requested']}: {report['precision']} ran"]
    if "decibels" in report:
        parts.append(f"{report['decibels']:.1f} dB to fp32")
    if report.get("ranges"):
        parts.append(f"ranges from {report['ranges']}")
    if report.get("saturated"):
        parts.append(f"{report['saturated']} values beyond them were saturated")
    return [", ".join(parts)]
