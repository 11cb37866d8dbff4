"""The command `demo`: thin networks beside dense ones, pruning, and a report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinlens.cli.printing import print_text
from thinlens.cli.verb import Answer, Verb

if TYPE_CHECKING:
    from thinlens.report.tables import Table

NETWORK = "rfdn-x4"
"""The shipped network that the demo prunes."""


@dataclass(frozen=True, kw_only=True)
class Demo(Verb):
    """Compare shipped thin networks, prune one by two methods, write a report.

    Example: thinlens demo --out demo-out

    The first table is there in half a minute, all in about three; Ctrl-C keeps the report.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("demo-out")
    """Gets report.html, table.md, sheet.png, restored images and the thin checkpoints."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the test sets (default: $THINLENS_DATA; without it, photographs that come with
    scikit-image)."""
    image: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...", help_behavior_hint="")] = ()
    """Pictures to compare the networks on, of any format that `restore` reads; one network is
    pruned, which takes a minute and a half."""

    def run(self) -> Answer:
        from thinlens.experiments import demo

        result = demo(
            self.out,
            self.data,
            images=self.image,
            network=NETWORK,
            progress=True,
            show=self._print,
        )
        content = {
            "report": str(result.report),
            "restored": result.restored,
            "rows": [row.as_json() for row in result.rows],
            "published": [row.as_json() for row in result.published],
        }
        return Answer(content, (f"{result.images} The report: {result.report}",))

    def _print(self, table: Table) -> None:
        """Print a table as soon as it was measured; with `--json` only the answer is printed."""
        if not self.json:
            print_text((table.rich(),), sys.stdout)
