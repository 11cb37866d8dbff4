"""The command `tune`: measure the engine's kernels for a network ahead."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from thinlens.cli import values
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Tune(Verb):
    """Measure which kernels run a network fastest on this machine, and store the times.

    Example: thinlens tune rfdn-x4 --size 320x180

    Without it, kernels are selected by heuristic, and measured once the engine has run for 20
    seconds. Times are kept in $XDG_CACHE_HOME/thinlens.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME|CHECKPOINT")]
    """A network's name, which takes random weights, or a checkpoint: a folder or a shipped name."""
    size: Annotated[str, tyro.conf.arg(metavar="WIDTHxHEIGHT")] = "320x180"
    """Size of the input. Other sizes share what was measured where their rows are about as long."""
    precision: Annotated[str, tyro.conf.arg(metavar="fp32|bf16|int16|fast")] = "fp32"
    """Precision of the engine; fast: fp32 and the others that this CPU has."""

    def run(self) -> Answer:
        from thinlens.cli.bench import load_branch
        from thinlens.engine.graph import Size
        from thinlens.engine.kernel_report import measure_precision
        from thinlens.engine.native import native
        from thinlens.engine.precision import FAST, PRECISIONS, find_precision
        from thinlens.models import image_channels

        if native() is None:
            raise UsageError("the native engine was not built on this machine")
        if self.precision != FAST:
            find_precision(self.precision)
        height, width = values.size(self.size)
        module = load_branch(self.source, None)
        size = Size(image_channels(module), height, width)
        begin, rows = time.monotonic(), []
        for name in PRECISIONS if self.precision == FAST else [self.precision]:
            try:
                measurement = measure_precision(module, size, name)
            except UsageError:
                if self.precision != FAST:
                    raise
                continue  # this CPU does not have it
            rows.append({"precision": name, **asdict(measurement)})
        seconds = round(time.monotonic() - begin, 3)
        text = tuple(
            f"{row['precision']}: {row['convolutions']} convolutions measured; {row['changed']} "
            f"have a faster kernel than the heuristic's, which takes "
            f"{100 * row['heuristic_loss']:.1f} % longer in all"
            for row in rows
        )
        content = {"model": self.source, "size": self.size, "seconds": seconds, "rows": rows}
        return Answer(content, text)
