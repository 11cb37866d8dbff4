"""The command `demo`: pruning, restoration and a report on real photographs, in a few minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb

NETWORK = "rfdn-x4"
"""The shipped network that the demo prunes."""


@dataclass(frozen=True, kw_only=True)
class Demo(Verb):
    """Prune the shipped RFDN by three methods, restore photographs, write a report.

    Example: thinlens demo --out demo-out
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("demo-out")
    """Gets report.html, restored images and the thin checkpoints."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the test sets (default: $THINLENS_DATA; without it, photographs that come with
    scikit-image)."""

    def run(self) -> Answer:
        from thinlens.experiments import demo

        result = demo(self.out, self.data, network=NETWORK, progress=True)
        content = {
            "report": str(result.report),
            "restored": result.restored,
            "rows": [row.as_json() for row in result.rows],
            "published": [row.as_json() for row in result.published],
        }
        sentence = f"{result.images} The report: {result.report}"
        return Answer(content, (result.table.rich(), result.published_table.rich(), sentence))
