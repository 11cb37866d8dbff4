"""The command `info`: the cost of a network, in all and by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli import values
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.checkpoints.format import Checkpoint

DEFAULT_SIZES = {"sls": "1280x720", "fmp": "1280x720", "classpruning": "256x256"}
"""The output sizes, WIDTHxHEIGHT, of the papers' cost figures."""

ENGINE_SIDE = 128
"""Side in pixels of the input that `--engine` times."""

DEFAULT_M = 32
"""SLS's group size, which decides whether a layer is prunable where no pattern has another."""


@dataclass(frozen=True, kw_only=True)
class Info(Verb):
    """Print the cost of a network: multiply-adds, parameters, bytes, and why a layer stays dense.

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
    """Convention of counting, by paper."""
    engine: bool = False
    """Also print what the native engine runs and what torch does, on an input of 128x128: each
    part's operations, layers, milliseconds, and why torch runs it; then each convolution's kernel,
    its milliseconds and those of the fastest dense kernel."""

    def run(self) -> Answer:
        from thinlens.checkpoints.foreign import unpruned_network
        from thinlens.experiments.networks import runnable_shape
        from thinlens.sparsity.cost import CONVENTIONS
        from thinlens.sparsity.summary import BUDGET_BASE, summarize
        from thinlens.tasks import make_task

        if self.convention not in CONVENTIONS:
            raise UsageError(f"--convention {self.convention!r}: wanted {' or '.join(CONVENTIONS)}")
        size_text = self.size or DEFAULT_SIZES[self.convention]
        size = values.size(size_text)
        network, m = self._network()
        task = make_task(**network.task)
        shape = runnable_shape(network.module, task, size)
        summary = summarize(
            network.module, network.patterns, shape, convention=self.convention, m=m
        )
        base, kept = BUDGET_BASE, summary.budget
        base_metric = network.provenance.get("budget_base")
        if network.resized or base_metric in ("macs", "params"):
            base = "params" if base_metric == "params" else "macs"
            whole = unpruned_network(network.model, network.module)
            dense = summarize(whole, {}, shape, convention=self.convention).total
            kept = getattr(summary.total, base) / getattr(dense, base)
        content = {
            "model": network.model,
            "task": task.name,
            "scale": task.scale,
            "params": summary.total.params,
            "macs": summary.total.macs,
            "flops": summary.total.flops,
            "prunable_macs": summary.total.prunable_macs,
            "bytes": network.bytes,
            "budget": kept,
            "budget_base": base,
            "convention": self.convention,
            "size": size_text,
            "layers": summary.entries(),
            "prunable_share": summary.share.fraction,
        }
        text = (*_text(content), str(summary.share))
        if self.engine:
            parts, kernels = _engine_reports(network)
            content.update(engine=parts, kernels=kernels)
            text = (*text, _engine_table(parts), _kernel_table(kernels))
        return Answer(content, text)

    def _network(self) -> tuple[Checkpoint, int]:
        """Return the network and the M by which its layers count as prunable."""
        from thinlens.experiments.networks import (
            as_checkpoint,
            initialize_network,
            uniform_patterns,
        )
        from thinlens.models import MODELS, image_channels

        if self.source not in MODELS:
            return self._checkpoint(), DEFAULT_M
        module = initialize_network(
            self.source, self.scale, values.width(self.width) if self.width else None
        )
        if self.pattern is None:
            return as_checkpoint(self.source, module, {}), DEFAULT_M
        n, m = values.pattern(self.pattern)
        return as_checkpoint(
            self.source, module, uniform_patterns(module, image_channels(module), n, m)
        ), m

    def _checkpoint(self) -> Checkpoint:
        from thinlens.experiments.networks import load_source

        checkpoint = load_source(self.source)
        for flag in ("scale", "pattern", "width"):
            if getattr(self, flag) is not None:
                raise UsageError(f"--{flag} is for networks by name; {self.source} is a checkpoint")
        return checkpoint


def _engine_reports(network: Checkpoint) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the parts of a network that the engine and torch run, and its convolutions."""
    import torch

    from thinlens.engine.automatic import select_engine
    from thinlens.engine.compiled import Compiled
    from thinlens.engine.graph import Size
    from thinlens.engine.kernel_report import kernel_report, measure_kernels
    from thinlens.engine.native import native
    from thinlens.engine.segment_report import segment_report
    from thinlens.models import image_channels

    if native() is None:
        raise UsageError("--engine: the native engine was not built on this machine")
    module, channels = network.module.eval(), image_channels(network.module)
    size = Size(channels, ENGINE_SIDE, ENGINE_SIDE)
    engine = select_engine(module, channels)
    if not isinstance(engine, Compiled):  # torch is faster: what the engine would run
        engine = Compiled(module, torch.get_num_threads())
    measure_kernels(engine, size)
    return segment_report(engine, size), kernel_report(engine, size)


def _engine_table(parts: list[dict[str, Any]]) -> Any:
    from thinlens.report.tables import Table

    rows = [
        (
            part["kind"],
            str(part["operations"]),
            str(part["layers"]),
            f"{part['ms']:.2f}",
            "; ".join(part["why"][:2]),
        )
        for part in parts
    ]
    return Table(("runs in", "operations", "layers", "ms", "torch because"), rows).rich()


def _kernel_table(kernels: list[dict[str, Any]]) -> Any:
    from thinlens.report.tables import Table

    rows = [
        (
            conv["layer"],
            conv["kernel"],
            f"{conv['ms']:.2f}",
            conv["dense_kernel"],
            f"{conv['dense_ms']:.2f}",
            f"{max(0.0, conv['dense_ms'] - conv['ms']):.2f}",
        )
        for conv in kernels
    ]
    headings = ("convolution", "kernel", "ms", "best dense", "ms", "zeros save")
    return Table(headings, rows).rich()


def _text(content: Mapping[str, Any]) -> tuple[Any, ...]:
    from thinlens.report.tables import Table, format_giga, format_integer

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
    flops = f", {format_giga(content['flops'])} GFLOPs" if content["flops"] is not None else ""
    side = "output" if content["scale"] > 1 else "input"
    part = (
        f"{format_giga(content['prunable_macs'])} prunable GMACs"
        if content["budget_base"] == "prunable_macs"
        else f"the {content['budget_base']} of the whole network"
    )
    summary = (
        f"{content['model']} x{content['scale']} ({content['task']}): "
        f"{format_giga(content['macs'])} GMACs{flops}, "
        f"{format_integer(content['params'])} parameters, "
        f"{format_integer(content['bytes'])} bytes\n"
        f"{content['size']} {side}, counted as {content['convention']}; keeps "
        f"{content['budget']:.2%} of {part}"
    )
    return layers.rich(), summary
