"""`restore`: a network and any images to results, in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from thinlens.adaptive.bundle import Bundle
from thinlens.adaptive.options import RoutingOptions
from thinlens.adaptive.route_map import draw_route_map
from thinlens.adaptive.router import TileRouter
from thinlens.api.network import AnyNetwork, network_parts, one_output
from thinlens.api.stored_ranges import stored_input_ranges
from thinlens.checkpoints.format import Checkpoint
from thinlens.dynamic.model import model_of
from thinlens.engine.selected_engine import SelectedEngine
from thinlens.errors import UsageError, quote_call
from thinlens.progress import Progress
from thinlens.restoration.folder import RestoreResult, restore_folder
from thinlens.restoration.network import Network as Runner
from thinlens.restoration.network import Restorer
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.ray_workers import RayCluster
from thinlens.tasks import make_task
from thinlens.tasks.task import Task


@quote_call
def restore(  # noqa: PLR0913 - keyword-only, each has one meaning
    network: AnyNetwork | Bundle | Restorer,
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    task: Task | None = None,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
    routing: RoutingOptions | None = None,
    route_maps: bool = False,
    ray: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> RestoreResult:
    """Restore an image, several, or all images below folders, to `out`/<relative path>.png.

    The same call again restores only what has no result. An image that cannot be read is listed
    and the others go on. Depth, transparency, grey and metadata are kept. If `out` is the name of
    an image file, the one source is restored to it. `engine` and `precision` are as for `evaluate`;
    `device` is cpu, cuda, mps, xpu, or auto, a GPU if there is one, in half precision. `options`
    are fields of `RestoreOptions`, such as `format` and `tile`; `routing` a bundle's, of which
    `route_maps` draws which network restored which tile. The source and `out` may be URLs,
    `s3://bucket/prefix`. With `ray`, "local" or the address of a cluster, `workers` restore (by
    default one a machine).

    >>> from thinlens.api import create, make_task
    >>> network = create("rfdn", width=8, attention_width=4, blocks=1)
    >>> restore(network, "images", "restored", task=make_task("sr", scale=4)).done
    1
    """
    check_keywords("restore", RestoreOptions, options)
    settings = RestoreOptions(**options)
    on_cpu = device == "auto" and not isinstance(network, AnyNetwork)  # bundles, restorers
    chosen = (engine, "cpu" if on_cpu else device, precision, routing, settings.blend)
    running, make = running_network(network, *chosen)
    if route_maps:
        settings = replace(settings, picture=_route_maps(running))
    sources = [source] if isinstance(source, str | Path) else source
    paths, folder, protocol = [Path(path) for path in sources], Path(out), task_of(network, task)
    cluster = None
    if ray is not None:
        in_worker = partial(_running_in_worker, network, *chosen)
        cluster = RayCluster(ray, workers, in_worker, protocol.channels)
    elif workers is not None:
        raise UsageError(f"workers={workers}: wanted ray='local' or an address too")
    result = restore_folder(
        *(running, protocol, paths, folder), options=settings, cluster=cluster, progress=progress
    )
    return replace(
        result, engine=make.used, kernels=make.kernel_selection, precision=make.precision
    )


def runner(network: AnyNetwork, engine: str, precision: str = "fp32") -> Runner:
    """Return the callable that runs a network: its module, or what the native engine compiled."""
    ranges = stored_input_ranges(network)
    return runner_of(network, SelectedEngine(engine, "cpu", precision, ranges))


def runner_of(network: AnyNetwork, make: SelectedEngine) -> Runner:
    """Return the callable that runs a network in the engine that `make` selects."""
    return model_of(one_output(network_parts(network)[0])).runner(make)


def task_of(network: AnyNetwork | Bundle | Restorer, task: Task | None) -> Task:
    """Return a network's task, or `task`; `UsageError` where there is none."""
    if task is not None:
        return task
    if isinstance(network, Bundle):
        return network.task
    if isinstance(network, Checkpoint):
        return make_task(**network.task)
    raise UsageError("this network holds no task: wanted task=make_task(...)")


def check_keywords(function: str, kind: type, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an option that is no field of `kind`."""
    names = sorted(field.name for field in fields(kind))
    for key in options:
        if key not in names:
            raise UsageError(f"{function} has no option {key!r}: wanted {', '.join(names)}")


def running_network(
    network: AnyNetwork | Bundle | Restorer,
    engine: str,
    device: str,
    precision: str,
    routing: RoutingOptions | None,
    blend: int,
) -> tuple[Runner | Restorer, SelectedEngine]:
    """Return what runs a network or a bundle, and what selects its engine."""
    make = SelectedEngine(engine, device, precision, stored_input_ranges(network))
    if isinstance(network, Bundle):
        return network.restorer(make, routing, blend=blend, engine=engine), make
    if isinstance(network, AnyNetwork):
        return runner_of(network, make), make
    return network, make


def _route_maps(running: Runner | Restorer) -> Callable[[Path, Path], None]:
    """Return what draws the routes of the last image over its result, for a bundle."""
    if not isinstance(running, TileRouter):
        raise UsageError("route_maps=True: wanted a bundle (thinlens adapt)")

    def picture(result: Path, target: Path) -> None:
        if running.last:
            draw_route_map(result, target, running.last, running.tiling)

    return picture


def _running_in_worker(network: AnyNetwork | Bundle | Restorer, *chosen: Any) -> Any:
    return running_network(network, *chosen)[0]
