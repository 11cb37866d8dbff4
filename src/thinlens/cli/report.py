"""The command `report`: one HTML page that compares thin networks with their dense one."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli import values
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Report(Verb):
    """Evaluate and time a dense network and thin ones of it, and write one HTML page that needs
    nothing else: figures, charts, pictures under a slider, layers, curves, hashes.

    Example: thinlens report rfdn-x4 thin --out report.html
    """

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]
    """Checkpoints (folders, shipped names, files of weights), bundles, or folders with those below
    them: one dense network, and thin ones of it."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("report.html")
    """The page; it changes whole or not at all."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Test images, as for evaluate (default for super-resolution: photographs that come with
    scikit-image)."""
    images: int = 6
    """Most images that are shown, those that lose most."""
    rounds: int = 7
    """Timed runs of each network; 0 measures no times."""
    size: Annotated[str, tyro.conf.arg(metavar="WIDTHxHEIGHT")] = "160x90"
    """Size of the timed input."""
    threads: int = 2
    """Threads of the engine while networks are timed."""
    beta: Annotated[float | None, tyro.conf.arg(metavar="0.3", help_behavior_hint="")] = None
    """Of bundles: as for restore."""
    image_budget: Annotated[
        str | None, tyro.conf.arg(metavar="6G|30%|40ms", help_behavior_hint="")
    ] = None
    """Of bundles: as for restore."""

    def run(self) -> Answer:
        from thinlens.adaptive.options import RoutingOptions
        from thinlens.experiments.network_report import ReportOptions, report

        self._check_numbers()
        command = public_command(sys.argv[1:])
        size = values.size(self.size)
        routing = RoutingOptions.read(self.beta, self.image_budget)
        options = ReportOptions(self.images, self.rounds, size, self.threads, command, routing)
        contents = report(self.runs, self.out, data=self.data, options=options, progress=True)
        thin = contents.featured
        content = {
            "out": str(self.out),
            "bytes": self.out.stat().st_size,
            "networks": [network.name for network in contents.networks],
            "featured": thin.name if thin else None,
            "images": len(contents.images),
        }
        return Answer(content, (f"{self.out}: {content['bytes']:,} bytes",))

    def _check_numbers(self) -> None:
        from thinlens.engine.compiled import MAX_THREADS

        if not self.runs:
            raise UsageError("report wants runs, such as rfdn-x4 thin")
        for flag, value in (("images", self.images), ("rounds", self.rounds)):
            if value < 0:
                raise UsageError(f"--{flag} {value}: wanted 0 or more")
        if not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"--threads {self.threads}: wanted 1 to {MAX_THREADS}")


def public_command(words: Sequence[str]) -> str:
    """Return the command that a page shows: of absolute paths only the last part.

    >>> public_command(["report", "/home/me/runs/thin", "--data=/data/Set5", "--out", "a.html"])
    'thinlens report thin --data=Set5 --out a.html'
    """
    return shlex.join(
        ["thinlens", *(re.sub(r"^(--[\w-]+=)?/.*?([^/]+)/*$", r"\1\2", x) for x in words)]
    )
