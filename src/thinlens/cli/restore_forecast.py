"""Answers of `restore --dry-run` and `restore --preview`, which restore nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thinlens.cli.verb import Answer
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.adaptive.bundle import Bundle
    from thinlens.adaptive.options import RoutingOptions
    from thinlens.checkpoints.format import Checkpoint
    from thinlens.restoration.options import RestoreOptions

SHOWN_IMAGES = 20
"""Images that the text lists; `--json` has all."""

MEBIBYTE = 2**20


def dry_run_answer(
    network: Checkpoint | Bundle,
    sources: Sequence[Path],
    out: Path,
    run: tuple[str, str, RoutingOptions | None],
    options: RestoreOptions,
) -> Answer:
    """Return what `restore` would do; `run` is the engine, the precision and a bundle's routing."""
    from thinlens.api.restoring import running_network, task_of
    from thinlens.restoration.forecast import forecast

    engine, precision, routing = run
    running, _ = running_network(network, engine, "cpu", precision, routing, options.blend)
    plan = forecast(running, task_of(network, None), sources, out, options=options)
    lines = []
    for image in plan.images[:SHOWN_IMAGES]:
        line = f"{image.path}: {image.reason or image.state}"
        if image.size and image.result_size:
            before, after = ("x".join(map(str, s)) for s in (image.size, image.result_size))
            line = f"{image.path}: {before} to {image.output}, {after}"
        lines.append(line)
    if len(plan.images) > SHOWN_IMAGES:
        lines.append(f"and {len(plan.images) - SHOWN_IMAGES} more")
    room = "" if plan.bytes < plan.free_bytes else "; the disk has less"
    total = (
        f"{plan.count('restore')} to restore in about {plan.seconds:.0f} s to about "
        f"{plan.bytes / MEBIBYTE:.0f} MiB ({plan.free_bytes / MEBIBYTE:.0f} MiB are free{room}), "
        f"{plan.count('done')} done, {plan.count('refused')} refused; nothing was written"
    )
    return Answer(plan.as_json(), (*lines, total))


def preview_answer(
    models: Sequence[str], sources: Sequence[Path], out: Path, region: str, engine: str
) -> Answer:
    """Draw a part of the first image, restored by every model."""
    from thinlens.adaptive.bundle import Bundle
    from thinlens.api import load, runner
    from thinlens.experiments.preview import PreviewModel, Region, preview
    from thinlens.restoration.sources import collect_inputs
    from thinlens.tasks import make_task

    part = Region.parse(region)
    networks = []
    for name in models:
        loaded = load(name)
        if isinstance(loaded, Bundle):
            raise UsageError(f"--preview compares networks; {name} is a bundle")
        channels = make_task(**loaded.task).channels
        networks.append(PreviewModel(name, runner(loaded, engine), channels))
    first = next(iter(collect_inputs(sources, out).paths.values()))
    result = preview(first, out, part, networks)
    content = {
        "preview": str(result.path),
        "seconds_per_megapixel": {k: round(v, 3) for k, v in result.seconds_per_megapixel.items()},
    }
    speeds = (f"{k}: {v:.2f} s a megapixel" for k, v in result.seconds_per_megapixel.items())
    return Answer(content, (f"{result.path}: written", *speeds))
