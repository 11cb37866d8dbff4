"""Public function `prune`: data to batches, any network to one that methods can run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from thinlens.api.network import AnyNetwork, network_parts
from thinlens.checkpoints.format import Checkpoint
from thinlens.engine.input_ranges import input_range_entry
from thinlens.errors import check_choice, quote_call
from thinlens.methods import METHODS
from thinlens.methods.preparation import DEFAULT_SIZE, prepared, with_channels
from thinlens.methods.verified import prune_verified
from thinlens.models import image_channels
from thinlens.models.finite_weights import check_finite_network
from thinlens.models.output import OutputName
from thinlens.progress import Progress
from thinlens.sparsity.budget import Budget, parse_milliseconds
from thinlens.sparsity.pattern import Pruned
from thinlens.tasks import make_task
from thinlens.tasks.task import Task
from thinlens.training.data import Data, first_inputs, first_shape, inputs_only
from thinlens.training.folder_data import DataSource, Holds, announce_data
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

THREADS = 2
"""Threads of the engine for which a budget in milliseconds is measured, by default."""

RANGE_BATCHES = 4
"""Batches of the data on which the ranges of int16 are measured."""


@quote_call
def prune(  # noqa: PLR0913 - keyword-only, each has one meaning
    network: AnyNetwork,
    *,
    budget: str | float,
    method: str = "least-squares",
    m: int | None = None,
    data: Data = None,
    data_holds: Holds | None = None,
    task: Task | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    output: OutputName | None = None,
    trainer: Trainer | None = None,
    preset: str | None = None,
    threads: int = THREADS,
    progress: Progress | None = None,
    **options: Any,
) -> Pruned:
    """Return a pruned copy of any network that maps images `[B, C, h, w]` to images, or to scores.

    `budget` is the fraction of the cost that is kept, `"1/8"`, `0.125` or `"12.5%"` (of the
    prunable multiply-adds; methods that remove channels: of the whole network's `metric`), or, for
    N:M, the milliseconds of one input of `size` in the engine on `threads` threads: `"40ms"`.
    `size` is the input that costs are counted for, by default that of the data. `m` is the largest
    group size of N:M; networks that are not in `list_models()` have the `policy` fit, by which
    layers of any width are pruned.

    `data`, which only methods that calibrate or train need, are inputs, `[C, h, w]` or
    `[B, C, h, w]` with values in [0, 1], in a sequence, a stacked tensor or a loader; or pairs
    `(input, target)` of them; or a folder. Without targets the network's own outputs are the
    targets. `data_holds` is what the images of a folder are: "inputs" of the network, or "targets",
    which `task` degrades or pairs; by default targets for methods that train on them and for
    networks of `list_models()`, and inputs for all others.

    `channels` are those of the images, where they cannot be found out. Of several outputs the last
    is kept, or the one called `output`, an index or a key. `trainer` fine-tunes; by default there
    is no training. `preset` names a set of the method's options, `options` are single ones.
    `progress` is called with the steps done. The result's `record` holds what the data was taken
    for and the share of the network that can be pruned. Raises `UsageError` where nothing can be.

    >>> from thinlens import cost
    >>> from thinlens.models import create
    >>> module = create("dncnn-17", depth=3, width=8)
    >>> pruned = prune(module, budget="1/2", method="one-shot", m=4, size=(32, 32))
    >>> cost(pruned, (32, 32)).budget
    0.5
    """
    check_choice("method", method, METHODS)
    kind, trainer = METHODS[method], _trainer(trainer, progress)
    seed, steps = trainer.settings.seed, trainer.settings.steps
    module = with_channels(network_parts(network)[0], channels)
    check_finite_network(module)
    budget_time = parse_milliseconds(budget)
    example: tuple[int, ...] = (1, image_channels(module), *(size or DEFAULT_SIZE))
    task = task or (make_task(**network.task) if isinstance(network, Checkpoint) else None)
    chosen = kind.configure(
        preset,
        budget=Budget.parse(budget if budget_time is None else 1),
        example=example,
        m=m,
        seed=seed,
        options={**kind.network_options(module, m), **kind.task_options(task), **options},
    )
    chosen.check_steps(trainer.settings)
    reads_targets = kind.reads_targets(steps, preset, options)
    training = kind.trains(steps, options)
    source = DataSource(data, data_holds, task, reads_targets, training=training)
    batches = source.batches(module)
    if data is not None or (size is None and (kind.NEEDS_DATA or steps)):
        shape = first_shape(batches, seed)
        module = prepared(module, shape, output)
        chosen = chosen if size else replace(chosen, example=shape)
    else:
        module = prepared(module, example, output)
    chosen = replace(chosen, distill_weight=1.0) if inputs_only(batches) else chosen
    data_entries = announce_data(batches)
    pruned = prune_verified(chosen, module, batches, trainer, budget_time, threads)
    ranges: dict[str, Any] = {}
    if kind.NEEDS_DATA or steps or data is not None:
        inputs = first_inputs(batches, seed, RANGE_BATCHES)
        ranges = input_range_entry(pruned.module, inputs, threads)
    return replace(pruned, record={**pruned.record, **data_entries, **ranges})


def _trainer(trainer: Trainer | None, progress: Progress | None) -> Trainer:
    """Return the trainer, by default one of no steps, with the progress callback."""
    trainer = trainer or Trainer(Settings(steps=0))
    return trainer if progress is None else trainer.reporting(progress)
