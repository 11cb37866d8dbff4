"""Public API: load, prune, train, compile, cost, evaluate, restore and adapt networks.

A network is a plain module, what `prune` returned or what `load` read; sizes are (height, width)
of the input in pixels. A `UsageError` carries a note that quotes the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from thinlens.adaptive.adapt import AdaptOptions
from thinlens.adaptive.adapt import adapt as adapt_bundle
from thinlens.adaptive.bundle import Bundle
from thinlens.adaptive.bundle_format import is_bundle, load_bundle, save_bundle
from thinlens.adaptive.options import RoutingOptions
from thinlens.adaptive.sources import load_candidates
from thinlens.api.exporting import export
from thinlens.api.network import AnyNetwork, network_parts, one_output
from thinlens.api.pruning import THREADS, prune
from thinlens.api.restoring import check_keywords, restore, runner, task_of
from thinlens.api.stored_ranges import stored_input_ranges
from thinlens.checkpoints.default_tasks import task_fields
from thinlens.checkpoints.factories import allowing
from thinlens.checkpoints.foreign import named_network, stored_type
from thinlens.checkpoints.format import Checkpoint
from thinlens.checkpoints.format import save as save_folder
from thinlens.checkpoints.pretrained import read_source
from thinlens.checkpoints.shipped import list_shipped
from thinlens.dynamic.model import EvaluationOptions, compiled_runner, model_of
from thinlens.engine.selected_engine import SelectedEngine
from thinlens.errors import quote_call
from thinlens.methods import METHODS
from thinlens.methods.preparation import with_channels
from thinlens.models import MODELS, create, image_channels
from thinlens.models.output import OutputName
from thinlens.progress import Progress
from thinlens.restoration.evaluation import Evaluation
from thinlens.restoration.evaluation import evaluate as evaluate_folder
from thinlens.restoration.network import Network as Runner
from thinlens.sparsity.masking import attach, strip
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.summary import CostSummary, summarize
from thinlens.tasks import make_task
from thinlens.tasks.task import Task
from thinlens.training.data import Data, as_batches
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective
from thinlens.training.settings import Settings

if TYPE_CHECKING:
    from thinlens.benchmark.run import BenchResult

__all__ = [
    "THREADS",
    "AnyNetwork",
    "adapt",
    "bench",
    "compile",
    "cost",
    "evaluate",
    "export",
    "list_methods",
    "list_models",
    "load",
    "load_checkpoint",
    "prune",
    "restore",
    "runner",
    "save",
    "train",
]


@quote_call
def load(path: str | Path, *, allow: Sequence[str] = ()) -> Checkpoint | Bundle:
    """Read a checkpoint or a bundle folder, a file of weights, or a shipped network by its name.

    `allow` are packages whose functions a checkpoint may name to build its network. That of a file
    of weights is detected. Raises `UsageError` if it is damaged, hostile or not known.

    >>> load("rfdn-x4").task["scale"]
    4
    """
    with allowing(allow):
        return load_bundle(Path(path)) if is_bundle(path) else load_checkpoint(path)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder, a file of weights, or a shipped network by its name."""
    return read_source(path)


@quote_call
def save(
    path: str | Path,
    network: AnyNetwork | Bundle,
    *,
    model: str | None = None,
    task: Task | Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    store: str | None = None,
) -> int:
    """Write a network, packed, or a bundle to the folder `path`; return the file's bytes.

    `model` is a name in `list_models()`, `spandrel:<architecture>`, or the function that builds the
    network, `"package.module:function"`, with its JSON `arguments`; networks of ours, of spandrel
    and loaded ones need none, nor a `task`. `store="fp16"` halves the bytes. The folder changes
    whole or not at all. A full disk is a `RunError`; what could not be loaded a `UsageError`.

    >>> module = create("dncnn-17", depth=3, width=8)
    >>> save("saved", module, model="dncnn-17", task=make_task("denoise")) == load("saved").bytes
    True
    """
    if isinstance(network, Bundle):
        return save_bundle(Path(path), network)
    module, patterns = network_parts(network)
    provenance: Mapping[str, Any] = network.record if isinstance(network, Pruned) else {}
    if isinstance(network, Checkpoint):
        provenance, model, task = network.provenance, model or network.model, task or network.task
    resized = not isinstance(network, nn.Module)  # pruning may have removed channels
    model = named_network(module, model, arguments, resized=resized)
    name, structures = model_of(module).checkpoint_entry(model, patterns)
    return save_folder(
        Path(path),
        module,
        model=name,
        task=task_fields(module, task),
        patterns=structures,
        provenance=provenance,
        store=stored_type(store),
    )


@quote_call
def train(
    network: str | nn.Module | Checkpoint | Pruned,
    data: Data,
    *,
    task: Task | None = None,
    settings: Settings | None = None,
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Train a network on pairs, in place, and return it in evaluation mode.

    `network` may be a name of `list_models()`, which is then built with weights of the settings'
    seed. A pruned network keeps its masks. `data` and `task` are as for `prune`. With `state`, a
    folder, the run saves its state there, and the same call resumes a killed run.

    >>> data = [(torch.rand(1, 16, 16), torch.rand(1, 16, 16))]
    >>> train(create("dncnn-17", depth=3, width=8), data, settings=Settings(steps=2)).training
    False
    """
    settings = settings or Settings()
    if isinstance(network, str):
        torch.manual_seed(settings.seed)
        network = create(network)
    if task is None and isinstance(network, Checkpoint):
        task = make_task(**network.task)
    module, patterns = network_parts(network)
    trainer = Trainer(settings, Path(state) if state else None, progress)
    attach(module, patterns)
    trainer.fit(PlainObjective(module, settings.loss), as_batches(data, task, training=True))
    return strip(module)[0].eval()


@quote_call
def compile(
    network: AnyNetwork,
    precision: str = "fp32",
    threads: int | None = None,
    output: OutputName | None = None,
) -> Runner:
    """Make a callable that maps images `[B, C, h, w]` as the network does, without its zeros.

    It holds a copy of the weights, runs on `threads` CPU threads (by default torch's number) and
    passes through torch.compile and torch.export. Without the C++ core torch runs the network after
    a warning. `precision` is fp32, bf16, int16 or fast, the fastest within 0.01 dB of fp32; ranges
    that a checkpoint does not hold are measured on the first image. Of several outputs the last is
    kept, or the one called `output`. Raises `UsageError` for operations it does not have.

    >>> run = compile(create("dncnn-17", depth=3, width=8).eval())
    >>> run(torch.rand(1, 1, 32, 48)).shape
    torch.Size([1, 1, 32, 48])
    """
    module, ranges = one_output(network_parts(network)[0], output), stored_input_ranges(network)
    return compiled_runner(module, precision=precision, threads=threads, input_ranges=ranges)


@quote_call
def cost(
    network: AnyNetwork,
    size: tuple[int, int],
    *,
    convention: str = "sls",
    channels: int | None = None,
) -> CostSummary:
    """Count a network's multiply-adds and parameters for one input of `size`, in all and by layer.

    `channels` are those of the input, where they cannot be found out. The products of attention
    are counted, in rows of their own.

    >>> cost(create("rfdn"), (180, 320)).total.macs
    39860085120
    """
    module, patterns = network_parts(network)
    channels = image_channels(with_channels(module, channels))
    return summarize(module, patterns, (channels, *size), convention=convention)


@quote_call
def evaluate(  # noqa: PLR0913 - keyword-only, each has one meaning
    network: AnyNetwork | Bundle,
    folder: str | Path,
    *,
    task: Task | None = None,
    seed: int = 0,
    sigmas: Sequence[float] = (),
    engine: str = "auto",
    precision: str = "fp32",
    router: str = "learned",
    routing: RoutingOptions | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Restore every input of a test folder and evaluate it by the task's protocol.

    `task` is by default the checkpoint's; `seed` draws random degradation; `sigmas` are noise
    levels of a denoising task, at each of which all images are evaluated. `engine` runs the
    network: torch, native, or auto: native for a pruned network if it is faster, which is measured
    once; `precision` is as for `compile`. `router` selects the branches of a routed network: its
    classifier (learned), the true noise level (oracle), the classifier's shares at random (random),
    or a branch's number. `routing` are the options of a bundle.

    >>> network = create("dncnn-17", depth=3, width=8)
    >>> evaluate(network, "images", task=make_task("denoise")).images
    1
    """
    make = SelectedEngine(engine, "cpu", precision, stored_input_ranges(network))
    evaluated = task_of(network, task)
    if isinstance(network, Bundle):
        restorer = network.restorer(make, routing, engine=engine)
        scores = evaluate_folder(restorer, evaluated, Path(folder), seed=seed, progress=progress)
        routed = restorer.cost_report(evaluated.scale)
        return replace(scores, routing=routed, engine=make.used, precision=make.precision)
    trained_for = make_task(**network.task) if isinstance(network, Checkpoint) else None
    options = EvaluationOptions(seed, tuple(sigmas), router, trained_for)
    model = model_of(one_output(network_parts(network)[0]))
    scores = model.evaluate(evaluated, Path(folder), make, options, progress)
    return replace(scores, engine=make.used, precision=make.precision)


@quote_call
def adapt(
    checkpoints: Sequence[str | Path | Checkpoint] | Mapping[str, Checkpoint],
    folder: str | Path,
    *,
    engine: str = "auto",
    state: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Bundle:
    """Train an estimator that selects one of several pruned networks for every tile of an image.

    `checkpoints` have one task and scale; `folder` holds training images. `engine` runs the
    networks while their errors are measured, `options` are fields of `AdaptOptions`. With
    `state`, a folder, the same call resumes a killed run. Attentive Fine-Grained Structured
    Sparsity (Oh et al., CVPR 2022), section 3.6.

    >>> _ = save("thin", create("dncnn-17", depth=3, width=8), model="dncnn-17",
    ...          task=make_task("denoise"))
    >>> sorted(adapt(["thin"], "photos", steps=1, tile=(16, 16)).metrics)
    ['laplacian', 'learned']
    """
    check_keywords("adapt", AdaptOptions, options)
    return adapt_bundle(
        load_candidates(checkpoints),
        Path(folder),
        AdaptOptions(**options),
        run=SelectedEngine(engine),
        state=Path(state) if state else None,
        progress=progress,
    )


@quote_call
def bench(network: AnyNetwork, size: tuple[int, int], **options: Any) -> BenchResult:
    """Time a network on an input of `size` in the native engine and in others, interleaved.

    `options` are those of `bench.run.bench`: `precision`, `against` (lists separated by commas),
    `threads`, `rounds` and `progress`. Of a routed network the largest branch runs.

    >>> network = create("dncnn-17", depth=3, width=8).eval()
    >>> result = bench(network, (16, 16), precision="fp32", against="torch", rounds=1)
    >>> {row["engine"] for row in result.as_json()["rows"]} >= {"torch"}
    True
    """
    from thinlens.benchmark.run import bench as bench_module

    module = model_of(network_parts(network)[0]).branch(None, "this network")
    return bench_module(module, size, **options)


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """List the networks whose names match `pattern`; with `pretrained`, the shipped checkpoints.

    >>> list_models("edsr*"), list_models("r*4", pretrained=True)
    (['edsr', 'edsr-8-128'], ['rfdn-x4'])
    """
    names = list_shipped() if pretrained else list(MODELS)
    return [name for name in names if fnmatch(name, pattern)]


def list_methods(pattern: str = "*") -> list[str]:
    """List the pruning methods whose names match `pattern`.

    >>> list_methods("s*")
    ['sls', 'sr-ste']
    """
    return [name for name in METHODS if fnmatch(name, pattern)]
