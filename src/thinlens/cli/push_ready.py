"""The command `push-ready`: whether a checkpoint's folder is complete for a model hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class PushReady(Verb):
    """Check whether a checkpoint's folder can be pushed to a model hub: it loads, its README.md has
    a YAML card (license, library_name, pipeline_tag), and no file runs code. Nothing is uploaded.

    Example: thinlens push-ready thin --licence apache-2.0
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A checkpoint's folder."""
    licence: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Write a README.md with a card under this licence first, where there is none."""

    def run(self) -> Answer:
        from thinlens.checkpoints.hub_folder import hub_problems, write_card

        if self.licence is not None:
            write_card(self.folder, self.licence)
        problems = hub_problems(self.folder)
        ready = f"{self.folder} is ready: hf upload USER/NAME {self.folder}"
        content = {"folder": str(self.folder), "ready": not problems, "problems": problems}
        return Answer(content, () if problems else (ready,), tuple(problems))
