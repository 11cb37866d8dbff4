"""Execution of a comparison's runs: prune, save, evaluate, each once and resumable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from thinlens.api import load_checkpoint, prune, save
from thinlens.checkpoints.default_tasks import described
from thinlens.checkpoints.format import Checkpoint
from thinlens.errors import UsageError
from thinlens.experiments.evaluation import evaluate_checkpoint, image_flops
from thinlens.experiments.networks import HD_SIZE, input_shape
from thinlens.experiments.photographs import skimage_calibration
from thinlens.experiments.plan import DENSE_METHOD, ComparisonPlan, Run, referenced_run
from thinlens.files import write_json
from thinlens.methods.option_aliases import rename_options
from thinlens.progress import Progress
from thinlens.report.search_plots import draw_search
from thinlens.sparsity.summary import CostSummary, summarize
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops
from thinlens.tasks.folders import training_crops
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

RUN_FILE = "cell.json"
"""The file of a run's folder that holds its identity and its result."""


class RunExecutor:
    """Execute runs in a comparison's folder; runs that are finished there are only read."""

    def __init__(self, plan: ComparisonPlan, out: Path, progress: Progress) -> None:
        self._plan, self._out, self._progress = plan, out, progress
        self._crops: dict[str, Crops] = {}

    def execute(self, run: Run) -> dict[str, Any]:
        """Execute a run, or read it, and return its row; an unreachable budget is its `error`.

        Raises `UsageError` where the folder holds the same run of another recipe.
        """
        folder = self._out / run.folder
        identity = self.identity(run)
        record = _read_record(folder / RUN_FILE)
        if record and renamed_identity(record["made_by"]) != identity:
            raise UsageError(
                f"{folder} was made by another recipe: choose another --out, or delete it"
            )
        dense = self._dense(run.network)
        if not record:
            try:
                thin = dense if run.method == DENSE_METHOD else self._prune(run, dense, folder)
            except UsageError as problem:
                return {**asdict(run), "error": str(problem)}
            record = {"made_by": identity, **_costs(run, dense, thin), "scores": {}}
            write_json(folder / RUN_FILE, record)
        tests = {} if self._is_untrained(run) else self._plan.tests
        missing = tests.keys() - record["scores"].keys()
        if missing:
            network = dense if run.method == DENSE_METHOD else load_checkpoint(folder)
            task = make_task(**{**network.task, **self._plan.task, **self._plan.evaluation_options})
            for name in sorted(missing):
                record["scores"][name] = evaluate_checkpoint(network, task, self._plan.tests[name])
                write_json(folder / RUN_FILE, record)
        scores = {name: record["scores"][name] for name in tests}
        row = {key: value for key, value in record.items() if key != "made_by"}
        return {**asdict(run), **row, "scores": scores, "error": None}

    def identity(self, run: Run) -> dict[str, Any]:
        """Return all settings of the recipe on which the run's result depends.

        It is stored, so its keys are those of earlier versions; empty tables are omitted.
        """
        fields = {k: v for k, v in asdict(run).items() if v or k not in ("variant", "options")}
        tables = {"task": self._plan.task, "judging": self._plan.evaluation_options}
        identity: dict[str, Any] = {
            "cell": fields,
            **{key: dict(x) for key, x in tables.items() if x},
        }
        untrained = self._plan.untrained.get(run.network)
        if run.method == DENSE_METHOD and untrained is None:
            return identity
        identity["training"] = asdict(self._settings(run))
        identity["crops"] = dict(self._plan.crops)
        identity["data"] = self._plan.data or "scikit-image"
        return identity if untrained is None else {**identity, "fresh": asdict(untrained)}

    def _settings(self, run: Run) -> Settings:
        """Return the training settings of a run: the recipe's, with the steps of its variant."""
        steps = self._plan.training.steps if run.steps is None else run.steps
        return replace(self._plan.training, seed=run.seed, steps=steps)

    def _referenced(self, run: Run) -> dict[str, Any]:
        """Return the options that are entries of other runs' records."""
        values: dict[str, Any] = {}
        for option, (word, entry) in run.references.items():
            folder = self._out / referenced_run(self._plan, run, word).folder
            if not (folder / RUN_FILE).is_file():
                raise UsageError(f"{option} is {entry} of {word}, whose run has not ended")
            record = load_checkpoint(folder).provenance
            if entry not in record:
                raise UsageError(f"{option} is {entry} of {word}, whose record has none")
            values[option] = record[entry]
        return values

    def _is_untrained(self, run: Run) -> bool:
        """Return whether the run's network has random weights, which are not evaluated."""
        untrained = self._plan.untrained.get(run.network)
        return run.method == DENSE_METHOD and untrained is not None and untrained.steps == 0

    def _dense(self, name: str) -> Checkpoint:
        """Load a dense network; one of the recipe's tables [fresh.NAME] is trained before, once."""
        untrained = self._plan.untrained.get(name)
        if untrained is None:
            return load_checkpoint(name)
        folder, seed = self._out / Run(name, DENSE_METHOD).folder, self._plan.seeds[0]
        if not (folder / "config.json").is_file():
            module, default_task = untrained.build(seed)
            task = self._task(described(default_task))
            settings = untrained.settings(replace(self._plan.training, seed=seed))
            trainer = Trainer(settings, folder, self._progress)
            untrained.train(module, task, trainer, self._data(name, task))
        return load_checkpoint(folder)

    def _prune(self, run: Run, dense: Checkpoint, folder: Path) -> Checkpoint:
        task = self._task(dense.task)
        settings = self._settings(run)
        options: dict[str, Any] = {} if run.m is None else {"m": run.m}
        options |= run.method_options | self._referenced(run)
        thin = prune(
            dense.module,
            budget=run.budget,
            method=run.method,
            preset=run.preset,
            data=self._data(run.network, task),
            task=task,
            size=_counted_shape(task)[1:],
            trainer=Trainer(settings, folder, self._progress),
            **options,
        )
        save(folder, thin, model=dense.model, task=task)
        checkpoint = load_checkpoint(folder)
        summary = summarize(checkpoint.module, checkpoint.patterns, _counted_shape(task))
        title = f"{run.method} {run.budget}, {settings.steps} steps"
        draw_search(folder, run.method, summary, thin.record, title)
        return checkpoint

    def _task(self, task: Mapping[str, Any]) -> Task:
        return make_task(**{**task, **self._plan.task})

    def _data(self, network: str, task: Task) -> Crops:
        """Return the training crops of a network, which are read once."""
        if network not in self._crops:
            if self._plan.data is None:
                crops = replace(skimage_calibration(task), **self._plan.crops)
            else:
                crops = training_crops(task, Path(self._plan.data), **self._plan.crops)
            self._crops[network] = crops
        return self._crops[network]


def renamed_identity(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored identity with the method's options under their present names."""
    fields = dict(stored.get("cell", {}))
    if fields.get("options"):
        options = rename_options(json.loads(fields["options"]))
        fields["options"] = json.dumps(options, sort_keys=True)
    return {**stored, "cell": fields}


def _counted_shape(task: Task) -> tuple[int, int, int]:
    return input_shape(task, HD_SIZE)


def _costs(run: Run, dense: Checkpoint, thin: Checkpoint) -> dict[str, Any]:
    """Return the columns of a row that are no scores."""
    shape = _counted_shape(make_task(**dense.task))
    summary = summarize(thin.module, thin.patterns, shape)
    return {
        "budget_base": thin.provenance.get("budget_base"),
        "achieved": thin.provenance.get("achieved") if run.method != DENSE_METHOD else 1.0,
        "macs": summary.total.macs,
        "paper_gmacs": paper_gmacs(dense.model, summary),
        "params": summary.total.params,
        "flops": image_flops(thin),
        "bytes": thin.bytes,
        "seconds": thin.provenance.get("seconds") if run.method != DENSE_METHOD else 0.0,
        "parts": thin.provenance.get("parts"),
    }


SCALED_BIAS_M = {"carn": 32, "rfdn": 32}
"""The networks, and M, for which SLS's tables also scale the additions of biases by N / M."""


def paper_gmacs(model: str, summary: CostSummary) -> float:
    """Return GMACs by the convention of SLS's tables.

    A layer at N:M costs N / M of its multiply-adds, in some networks also of its bias additions.
    """
    macs = float(summary.total.macs)
    for layer in summary.layers:
        n = summary.n.get(layer.name)
        if n is not None and layer.m is not None and layer.m == SCALED_BIAS_M.get(model):
            macs -= layer.bias_adds * (1 - n / layer.m)
        # single weights that are 0 cost as much as others in the paper
        pruned = layer.weights - summary.kept.get(layer.name, layer.weights)
        macs += pruned * (layer.macs // layer.weights)
    return macs / 1e9


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
        if isinstance(record["made_by"], dict) and isinstance(record["scores"], dict):
            renamed_identity(record["made_by"])
            return dict(record)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise UsageError(f"{path} is damaged: delete it, and the run starts again")
