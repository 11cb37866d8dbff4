"""How is a search shown beside the checkpoint that it led to?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.report.plots import layers_picture
from thinlens.report.search import course_picture, rank_correlation
from thinlens.sparsity.summary import Price


def draw_search(
    folder: Path, name: str, priced: Price, record: Mapping[str, Any], title: str
) -> list[str]:
    """Draw layers.png and search.png (SLS, Fig. 6 and S1) into `folder`, and say so.

    `record` is what the method remembers; one that did not search has nothing to draw.
    """
    if not record.get("history"):
        return []
    try:
        layers_picture(folder / "layers.png", priced, title)
        course_picture(folder / "search.png", {name: record}, title)
    except UsageError as missing:
        return [f"no pictures: {missing}"]
    found = rank_correlation(priced)
    trend = "" if found is None else f"; rank correlation of N and multiply-adds {found:+.2f}"
    return [f"{folder / 'layers.png'}: N of every layer; search.png: the search{trend}"]
