"""The verb `demo`: the whole line once, on real photographs, in a few minutes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.progress import progress_bar

NETWORK = "rfdn-x4"


@dataclass(frozen=True, kw_only=True)
class Demo(Verb):
    """Prune the shipped RFDN by three methods, restore photographs, write a report.

    Example: thinlens demo --out demo-out
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("demo-out")
    """Gets report.html, pictures, restored images and the thin checkpoints."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the test sets (default: $THINLENS_DATA; without it, photographs that come with
    scikit-image)."""

    def run(self) -> Answer:
        from thinlens.api import load
        from thinlens.experiments.demo_report import write_report
        from thinlens.experiments.demo_rows import make_rows, timed
        from thinlens.experiments.photographs import own_sources, standard_sources
        from thinlens.restoration.folder import restore_folder
        from thinlens.tasks import make_task

        network = load(NETWORK)
        task = make_task(**network.task)
        given = self.data or os.environ.get("THINLENS_DATA")
        if given:
            sources = standard_sources(task, Path(given))
        else:
            sources = own_sources(task, self.out / "photographs")
        with progress_bar("demo") as report:
            rows = make_rows(network, task, sources, self.out / "checkpoints", report)
        rows, torch_ms = timed(rows, task.channels)
        inputs = next(iter(sources.tests.values())) / "LR"
        restored = restore_folder(rows[-1].run, task, inputs, self.out / "restored")
        table = write_report(self.out, task, rows, sources, torch_ms)
        content = {
            "report": str(self.out / "report.html"),
            "restored": restored.done + restored.skipped,
            "rows": [row.as_json() for row in rows],
        }
        sentence = f"{sources.described} The report: {self.out / 'report.html'}"
        return Answer(content, (table.rich(), sentence))
