"""The command `compare`: run a comparison's recipe and print its table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Compare(Verb):
    """Prune networks by several methods at equal steps, evaluate them all, and write one table; the
    same command again goes on where it stopped.

    Example: thinlens compare recipes/smoke.toml
    """

    PRINTS_ONCE = True

    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE.toml")]
    """TOML: networks, methods, budgets, m, seeds, data, and the tables [tests], [training],
    [crops], [task] and [evaluation] (the task's options, always and in tests), [fresh.NAME] (a
    network to train first) and [variants.NAME] (a method's options)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the runs, the tables and the pictures (default: runs/<the recipe's name>)."""
    jobs: int = 1
    """Runs at once, each in a process (torchrun: one run at a time on each of its processes)."""
    rounds: int = 0
    """Timed runs of every network in the native engine, interleaved, in the end (column ms)."""
    threads: int = 2
    """Threads of these runs."""

    def run(self) -> Answer:
        from thinlens.experiments import compare

        self._check_numbers()
        result = compare(
            self.recipe,
            self.out,
            jobs=self.jobs,
            rounds=self.rounds,
            threads=self.threads,
            progress=True,
        )
        content = {
            "recipe": str(self.recipe),
            "out": str(result.out),
            "done": len(result.rows),
            "failed": len(result.failures),
            "left_out": list(result.skipped_tests),
            "rows": list(result.rows),
        }
        lines = [f"{result.out}: table.csv, table.md", *result.figures]
        lines += [f"{x} is left out: its folder is not known" for x in result.skipped_tests]
        return Answer(content, (result.table.rich(), *lines), result.failures)

    def _check_numbers(self) -> None:
        from thinlens.engine.compiled import MAX_THREADS

        if self.jobs < 1:
            raise UsageError(f"--jobs {self.jobs}: wanted 1 or more")
        if self.rounds < 0:
            raise UsageError(f"--rounds {self.rounds}: wanted 0 or more")
        if not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"--threads {self.threads}: wanted 1 to {MAX_THREADS}")
