"""The command `import`: convert published weights to a checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class Import(Verb):
    """Turn published weights (.pth, .pt, .ckpt, .bin, .safetensors) into a checkpoint.

    The network is detected: ours first, then those of spandrel, if it is installed. No code of the
    file runs. Example: thinlens import realesr-animevideov3.pth --out animevideo
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The weights."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """The network they belong to, where it is not detected: rfdn-aim, spandrel:ESRGAN, or your own
    function that builds it, package.module:function, which is imported."""
    arguments: Annotated[str | None, tyro.conf.arg(metavar="JSON", help_behavior_hint="")] = None
    """Keyword arguments of your function, such as '{"channels": 64}'."""
    output: Annotated[str | None, tyro.conf.arg(metavar="KEY|INDEX", help_behavior_hint="")] = None
    """Which image your network returns is kept, where it returns several (default: the last)."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the new checkpoint."""
    scale: Annotated[int | None, tyro.conf.arg(metavar="2|3|4", help_behavior_hint="")] = None
    """Enlargement of a super-resolution network by --model (default: the network's own)."""
    store: Annotated[str | None, tyro.conf.arg(metavar="fp16", help_behavior_hint="")] = None
    """Store values as fp16: half of the bytes; what that costs in decibels is printed."""

    def run(self) -> Answer:
        from thinlens.api import save
        from thinlens.checkpoints.pretrained import import_network
        from thinlens.cli.values import json_arguments
        from thinlens.report.tables import format_integer

        options = {} if self.scale is None else {"scale": self.scale}
        imported = import_network(
            self.file,
            self.model,
            arguments=json_arguments("--arguments", self.arguments),
            output=_output_name(self.output),
            **options,
        )
        module, task = imported.module, imported.task
        size = save(self.out, module, model=imported.model, task=task, store=self.store)
        params = sum(p.numel() for p in module.parameters())
        content = {
            "model": imported.model,
            "task": task.name,
            "scale": task.scale,
            "params": params,
            "bytes": size,
            "out": str(self.out),
        }
        sentence = (
            f"{self.out}: {imported.model} of {format_integer(params)} parameters, x{task.scale} "
            f"({task.name}), {format_integer(size)} bytes"
        )
        lines = [sentence]
        if self.store is not None:
            from thinlens.experiments.half_precision import half_precision_loss

            loss = half_precision_loss(module, task)
            content["fp16_psnr"] = loss
            lines.append(f"fp16: {loss:.1f} dB to the network in its own precision")
        return Answer(content, tuple(lines))


def _output_name(output: str | None) -> str | int | None:
    """Return the index, where it is one, or the key of an output."""
    is_index = output is not None and re.fullmatch(r"-?\d{1,9}", output) is not None
    return int(output) if output is not None and is_index else output
