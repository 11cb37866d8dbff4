"""What can a Python program do with thinlens in one call?

Everywhere a network is a plain module, what `prune` gave or what `load` read; sizes are
(height, width) of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from thinlens.checkpoints.format import Checkpoint
from thinlens.checkpoints.format import load as load_folder
from thinlens.checkpoints.format import save as save_folder
from thinlens.checkpoints.shipped import resolve
from thinlens.checkpoints.tensors import Structures
from thinlens.dynamic.routed import Routed
from thinlens.dynamic.router import RoutedRunner, BranchPolicy, ImageRouter, fixed_branch, shuffled, by_noise_level
from thinlens.engine.automatic import faster
from thinlens.engine.compiled import compile as compile_module
from thinlens.engine.latency import price_layers
from thinlens.engine.native import native
from thinlens.errors import UsageError
from thinlens.methods import METHODS
from thinlens.methods.nm_method import NMMethod
from thinlens.models import image_channels
from thinlens.restoration.evaluation import Evaluation, Progress
from thinlens.restoration.evaluation import evaluate as evaluate_folder
from thinlens.restoration.folder import RestoreOptions, RestoreResult, restore_folder
from thinlens.restoration.network import Network as Runner
from thinlens.restoration.network import Restorer
from thinlens.sparsity.budget import Budget, milliseconds
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.summary import Price, price
from thinlens.tasks import make_task
from thinlens.tasks.denoising import Denoising
from thinlens.tasks.folders import open_pairs
from thinlens.tasks.task import Task
from thinlens.training.data import Data, feed
from thinlens.training.distillation import Taught
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

THREADS = 2
"""That a time is measured with, where no other number is given; performance.md's figures too."""

ENGINES = ("auto", "torch", "native")

Network = nn.Module | Pruned | Checkpoint
"""A plain module, what `prune` gave or what `load` read."""


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder, or a shipped network by its name (`rfdn-x4`).

    Raises `UsageError` if it is damaged, hostile or no checkpoint.
    """
    return load_folder(resolve(str(path)))


def save(path: str | Path, network: Network, *, model: str, task: Task) -> int:
    """Write a network of `MODELS[model]`, packed, to the folder `path`; return the file's bytes.

    The folder changes whole or not at all. A full disk is a `RunError`.
    """
    module, patterns = _parts(network)
    structures: Structures = patterns
    if isinstance(module, Routed):
        if model != module.NAME:
            module.name(model)
        model, structures = module.NAME, module.structures()
    return save_folder(
        Path(path),
        module,
        model=model,
        task=described(task),
        patterns=structures,
        provenance=network.record if isinstance(network, Pruned) else {},
    )


def prune(  # noqa: PLR0913 - keyword-only, each has one meaning
    module: nn.Module,
    *,
    budget: str | float,
    method: str = "least-squares",
    m: int = 32,
    data: Data = None,
    task: Task | None = None,
    size: tuple[int, int] | None = None,
    trainer: Trainer | None = None,
    preset: str | None = None,
    threads: int = THREADS,
    **options: Any,
) -> Pruned:
    """Make a thin copy of any network that maps `[B, C, h, w]` to images; `module` stays as it is.

    `budget` is the part that is kept: `"1/8"`, `0.125`, `"12.5%"` (of the prunable multiply-adds;
    method filter: of the whole network's `metric`, macs or params); or, for N:M, the milliseconds
    that one input of `size` takes in the engine on `threads` threads: `"40ms"`.
    `data` is a folder (then `task` says how pairs are made), a sequence of `(input, target)`
    tensors `[C, h, w]` or `[B, C, h, w]`, or a loader of such; a method that neither calibrates
    nor trains needs none. `size` is the (height, width) of the input that layers are priced at,
    by default that of the data. `trainer` fine-tunes what a method trains; by default nothing is.
    `preset` names a set of the method's own settings, `options` are single ones. Raises
    `UsageError` where nothing can be pruned.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}: wanted {', '.join(METHODS)}")
    trainer = trainer or Trainer(Settings(steps=0))
    fed = feed(data, task, training=trainer.settings.steps > 0)
    known = {field.name for field in fields(METHODS[method])}
    if "seed" in known:
        options.setdefault("seed", trainer.settings.seed)
    for key in options:
        if key not in known:
            raise UsageError(f"{method} has no option {key!r}: wanted {', '.join(sorted(known))}")
    if size is not None:
        example = (1, image_channels(module), *size)
    else:
        example = (1, *fed.batch(trainer.settings.seed, 0, 0)[0].shape[1:])
    time = milliseconds(budget)
    settings = {"budget": Budget.of(budget if time is None else 1), "example": example, **options}
    if "m" in known:
        settings["m"] = m
    chosen = METHODS[method].preset(preset, **settings)
    if time is not None:
        if not isinstance(chosen, NMMethod):
            raise UsageError(f"budget {budget}: {method} takes a part, such as 1/8, and no time")
        prices = price_layers(module, chosen.layers(module), example, threads)
        chosen = replace(chosen, budget=prices.budget(time), prices=prices)
    return chosen.run(module, Taught(fed, module, chosen.taught), trainer)


def compile(network: Network, precision: str = "fp32", threads: int | None = None) -> Runner:
    """Make a callable that maps images `[B, C, h, w]` as the network does, without its zeros.

    It holds a copy of the weights, runs on `threads` threads of the CPU (torch's number by
    default) and passes through torch.compile and torch.export. Where the C++ core was not built,
    torch runs the network after one warning. Raises `UsageError` with what it does not know.
    """
    module, _ = _parts(network)
    if isinstance(module, Routed):
        return RoutedRunner(module, [compile(branch, precision, threads) for branch in module.apart()])
    return compile_module(module, precision, threads)


def cost(network: Network, size: tuple[int, int], *, convention: str = "sls") -> Price:
    """Price a network on one input of `size` (height, width): whole and by layer."""
    module, patterns = _parts(network)
    return price(module, patterns, (image_channels(module), *size), convention=convention)


def evaluate(  # noqa: PLR0913 - keyword-only, each has one meaning
    network: Network,
    folder: str | Path,
    *,
    task: Task | None = None,
    seed: int = 0,
    sigmas: Sequence[float] = (),
    engine: str = "auto",
    router: str = "learned",
    progress: Progress | None = None,
) -> Evaluation:
    """Restore every input of a test folder and judge it by the task's protocol.

    `task` is a checkpoint's own unless given; `seed` draws random degradation;
    `engine` is what runs the network: torch, native, or auto: native for a thin network that it
    runs faster, which is measured once. At each of `sigmas`, noise levels of a denoising task, all
    images are judged in turn.
    `router` is who picks the branches of a class-pruned network: its classifier (learned), the
    true noise level (oracle), chance with the classifier's own shares (random), or a branch's
    number, 0 for the thinnest.
    """
    judged, (module, _) = _task(network, task), _parts(network)
    if not isinstance(module, Routed):
        running = runner(network, engine)
        if router != "learned":
            raise UsageError(f"router {router!r}: this network has one branch")
        return evaluate_folder(
            running, judged, Path(folder), seed=seed, sigmas=sigmas, progress=progress
        )

    def judge(routed: ImageRouter, progress: Progress | None = None) -> Evaluation:
        return evaluate_folder(
            routed, judged, Path(folder), seed=seed, sigmas=sigmas, progress=progress
        )

    by = partial(ImageRouter, module, branches=[runner(branch, engine) for branch in module.apart()])
    routed = by()
    if router == "random":
        judge(routed)
        routed = by(shuffled(routed.classes, seed))
    elif router == "oracle":
        known = make_task(**network.task) if isinstance(network, Checkpoint) else judged
        images, levels = len(open_pairs(Path(folder), judged)), _sigmas(known)
        if levels and len(levels) != module.count:
            raise UsageError(
                f"router oracle: {len(levels)} noise levels and {module.count} branches: "
                "wanted one branch for each"
            )
        routed = by(by_noise_level(sigmas or _sigmas(judged), levels, images))
    elif router != "learned":
        routed = by(_fixed(router, module))
    found = judge(routed, progress)
    scores = zip(found.per_image, routed.classes, strict=True)
    told = tuple(replace(score, branch=branch) for score, branch in scores)
    return replace(found, per_image=told, routing={"router": router, **routed.cost_report()})


def _sigmas(task: Task) -> tuple[float, ...]:
    """Return the noise levels of a denoising task; others have none."""
    return (task.sigmas or (task.sigma,)) if isinstance(task, Denoising) else ()


def _fixed(router: str, module: Routed) -> BranchPolicy:
    """Read the number of a branch."""
    known = [str(index) for index in range(module.count)]
    if router not in known:
        raise UsageError(f"router {router!r}: wanted learned, oracle, random, {', '.join(known)}")
    return fixed_branch(int(router))


def restore(
    network: Network | Restorer,
    source: str | Path,
    out: str | Path,
    *,
    task: Task | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
    **handling: Any,
) -> RestoreResult:
    """Restore an image, or all images below a folder, to `out`/<relative path>.png.

    The same call again does what is left. A bad image is listed and the others go on.
    `engine` is as for `evaluate`, `options` are fields of `RestoreOptions`: `tile`, `blend` and
    `max_pixels`. A router of tiles (`adaptive.router`) has its own engine and wants `task`.
    """
    restored = _task(network, task)
    running = network if isinstance(network, Restorer) else runner(network, engine)
    known = {field.name for field in fields(RestoreOptions)}
    for key in handling:
        if key not in known:
            raise UsageError(f"restore has no option {key!r}: wanted {', '.join(sorted(known))}")
    chosen = RestoreOptions(**handling)
    source, out = Path(source), Path(out)
    return restore_folder(running, restored, source, out, options=chosen, progress=progress)


def described(task: Task) -> dict[str, Any]:
    """Return what a checkpoint remembers of a task: `make_task(**described(task))` makes it."""
    return {"name": task.name, **asdict(task)}  # type: ignore[call-overload]


def _parts(network: Network) -> tuple[nn.Module, dict[str, Any]]:
    if isinstance(network, nn.Module):
        return network, {}
    return network.module, network.patterns


def runner(network: Network, engine: str) -> Runner:
    """Return what runs the network: its module, or what the native engine makes of it."""
    module, _ = _parts(network)
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r}: wanted {', '.join(ENGINES)}")
    if engine == "torch":
        return module
    if isinstance(module, Routed):
        return RoutedRunner(module, [runner(branch, engine) for branch in module.apart()])
    if engine == "auto":
        return faster(module, image_channels(module))
    if native() is None:
        raise UsageError("engine native: it was not built on this machine; wanted torch")
    return compile(module)


def _task(network: Network | Restorer, task: Task | None) -> Task:
    if task is not None:
        return task
    if isinstance(network, Checkpoint):
        return make_task(**network.task)
    raise UsageError("this network does not say its task: wanted task=make_task(...)")
