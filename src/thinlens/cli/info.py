"""The verb `info`: what a network costs, as a whole and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError
from thinlens.experiments import values

if TYPE_CHECKING:
    from thinlens.checkpoints.format import Checkpoint

DEFAULT_SIZES = {"sls": "1280x720", "fmp": "1280x720", "classpruning": "256x256"}
"""The sizes that the papers count at."""

DEFAULT_M = 32
"""SLS's group size, by which layers count as prunable where no pattern says another."""


@dataclass(frozen=True, kw_only=True)
class Info(Verb):
    """Print what a network costs: multiply-adds, parameters, bytes, and why a layer stays dense.

    Example: thinlens info rfdn --scale 4 --pattern 8:32
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME|CHECKPOINT")]
    """A network's name, or a checkpoint: a folder or a shipped name."""
    scale: Annotated[int | None, tyro.conf.arg(metavar="2|3|4", help_behavior_hint="")] = None
    """Enlargement of a super-resolution network (default: the network's own)."""
    pattern: Annotated[str | None, tyro.conf.arg(metavar="N:M", help_behavior_hint="")] = None
    """The same N:M in every prunable layer, such as 8:32."""
    width: Annotated[str | None, tyro.conf.arg(metavar="1/2|3/8|1/4", help_behavior_hint="")] = None
    """Factor of the hidden widths."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT", help_behavior_hint="")] = None
    """Output size for super-resolution, else input size (default: 1280x720, for classpruning
    256x256)."""
    convention: Annotated[str, tyro.conf.arg(metavar="sls|classpruning|fmp")] = "sls"
    """Whose way of counting."""

    def run(self) -> Answer:
        from thinlens.experiments.networks import input_shape
        from thinlens.models import MODELS
        from thinlens.sparsity.cost import CONVENTIONS
        from thinlens.sparsity.summary import BUDGET_BASE, price
        from thinlens.tasks import make_task

        if self.convention not in CONVENTIONS:
            raise UsageError(f"--convention {self.convention!r}: wanted {' or '.join(CONVENTIONS)}")
        size_text = self.size or DEFAULT_SIZES[self.convention]
        size = values.size(size_text)
        network, m = self._network()
        task = make_task(**network.task)
        shape = input_shape(task, size)
        priced = price(network.module, network.patterns, shape, convention=self.convention, m=m)
        base, kept = BUDGET_BASE, priced.budget
        asked = network.provenance.get("budget_base")
        if network.narrowed or asked in ("macs", "params"):
            base = "params" if asked == "params" else "macs"
            whole = MODELS[network.model].build(network.module.config)
            dense = price(whole, {}, shape, convention=self.convention).total
            kept = getattr(priced.total, base) / getattr(dense, base)
        content = {
            "model": network.model,
            "task": task.name,
            "scale": task.scale,
            "params": priced.total.params,
            "macs": priced.total.macs,
            "flops": priced.total.flops,
            "prunable_macs": priced.total.prunable_macs,
            "bytes": network.bytes,
            "budget": kept,
            "budget_base": base,
            "convention": self.convention,
            "size": size_text,
            "layers": priced.entries(),
        }
        return Answer(content, _text(content))

    def _network(self) -> tuple[Checkpoint, int]:
        """Return the network and the M that says which of its layers count as prunable."""
        from thinlens.experiments.networks import fresh, uniform, unsaved
        from thinlens.models import MODELS, image_channels

        if self.source not in MODELS:
            return self._checkpoint(), DEFAULT_M
        module = fresh(self.source, self.scale, values.width(self.width) if self.width else None)
        if self.pattern is None:
            return unsaved(self.source, module, {}), DEFAULT_M
        n, m = values.pattern(self.pattern)
        return unsaved(self.source, module, uniform(module, image_channels(module), n, m)), m

    def _checkpoint(self) -> Checkpoint:
        from thinlens.experiments.networks import saved

        found = saved(self.source)
        for flag in ("scale", "pattern", "width"):
            if getattr(self, flag) is not None:
                raise UsageError(f"--{flag} is for networks by name; {self.source} is a checkpoint")
        return found


def _text(content: Mapping[str, Any]) -> tuple[Any, ...]:
    from thinlens.report.tables import Table, count, giga

    layers = Table(
        ("layer", "channels", "kernel", "N:M", "GMACs", "dense because"),
        [
            (
                layer["name"],
                f"{layer['in_channels']} > {layer['out_channels']}",
                "x".join(map(str, layer["kernel"])),
                f"{layer['n']}:{layer['m']}" if layer["n"] else "-",
                f"{layer['macs'] / 1e9:.3f}",
                layer["why"],
            )
            for layer in content["layers"]
        ],
    )
    flops = f", {giga(content['flops'])} GFLOPs" if content["flops"] is not None else ""
    side = "output" if content["scale"] > 1 else "input"
    part = (
        f"{giga(content['prunable_macs'])} prunable GMACs"
        if content["budget_base"] == "prunable_macs"
        else f"the {content['budget_base']} of the whole network"
    )
    summary = (
        f"{content['model']} x{content['scale']} ({content['task']}): "
        f"{giga(content['macs'])} GMACs{flops}, {count(content['params'])} parameters, "
        f"{count(content['bytes'])} bytes\n"
        f"{content['size']} {side}, counted as {content['convention']}; keeps "
        f"{content['budget']:.2%} of {part}"
    )
    return layers.rich(), summary
