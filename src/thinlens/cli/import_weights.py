"""The command `import`: convert published weights to a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class Import(Verb):
    """Turn a published state dict (.pth, .pt, .safetensors) into a checkpoint; no code of it runs.

    Example: thinlens import RFDN_AIM.pth --model rfdn-aim --out rfdn-aim
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The weights."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """The network they belong to."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the new checkpoint."""
    scale: Annotated[int | None, tyro.conf.arg(metavar="2|3|4", help_behavior_hint="")] = None
    """Enlargement of a super-resolution network (default: the network's own)."""

    def run(self) -> Answer:
        from thinlens.api import save
        from thinlens.checkpoints.pretrained import import_weights
        from thinlens.experiments.networks import default_task
        from thinlens.report.tables import format_integer

        options = {} if self.scale is None else {"scale": self.scale}
        module = import_weights(self.file, self.model, **options)
        task = default_task(self.model, module)
        size = save(self.out, module, model=self.model, task=task)
        params = sum(p.numel() for p in module.parameters())
        content = {
            "model": self.model,
            "task": task.name,
            "scale": task.scale,
            "params": params,
            "bytes": size,
            "out": str(self.out),
        }
        sentence = (
            f"{self.out}: {self.model} of {format_integer(params)} parameters, "
            f"{format_integer(size)} bytes"
        )
        return Answer(content, (sentence,))
