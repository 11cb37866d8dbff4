"""The command `prune`: one sub-command for every entry of `METHODS`, generated from its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError, check_choice
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from thinlens.checkpoints.format import Checkpoint
    from thinlens.experiments.recipe import TrainingRecipe
    from thinlens.methods import Method
    from thinlens.sparsity.pattern import Pruned
    from thinlens.tasks.task import Task
    from thinlens.training.data import Data
    from thinlens.training.settings import Settings

DEFAULT_METHOD = "least-squares"

BASES = {
    "prunable_macs": "prunable multiply-adds",
    "macs": "whole network's multiply-adds",
    "params": "whole network's parameters",
    "base_flops": "network's FLOPs, an image on average",
}
"""The cost that a budget is a fraction of, by `budget_base` of a record; others are times."""


def _with_hard_images(answer: Answer, dense: Any, thin: Any, task: Task) -> Answer:
    """Compare both networks on hard images (`restoration.hard_images`), if they take them."""
    from thinlens.restoration import hard_images

    try:
        images = hard_images.compare_on_hard_images(dense, thin, task.channels)
    except UsageError:
        return replace(answer, content={**answer.content, "hard_images": None})
    content = {**answer.content, "hard_images": hard_images.hard_images_entry(images)}
    sentence = hard_images.hard_images_sentence(images)
    return replace(answer, content=content, text=(*answer.text, sentence))


OPTIONS = "pruning"
"""The field of a command that holds the given options of the method: "pruning options" in help."""


@dataclass(frozen=True, kw_only=True)
class Prune(Verb):
    """Prune a network under a budget and save it as a smaller checkpoint.

    Example: thinlens prune least-squares rfdn-x4 --budget 1/4 --out thin
    """

    HAS_OUT_ALONE = True

    KIND: ClassVar[Any] = None
    """The `Method` of a sub-command."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A folder, or a shipped name; for methods that train from scratch (fmp) also the name of a
    network."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the pruned checkpoint."""
    store: Annotated[str | None, tyro.conf.arg(metavar="fp16", help_behavior_hint="")] = None
    """Store values as fp16: half of the bytes; what that costs in decibels is printed."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """A named set of the method's options."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Images to calibrate or train on (default: the photographs that come with scikit-image)."""
    inputs: bool = False
    """The images of --data are inputs of the network, whose outputs are the targets (default for
    imported networks, unless the method trains on targets)."""
    targets: bool = False
    """The images of --data are targets, which the task degrades or pairs (default for networks of
    thinlens)."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Optimizer steps of fine-tuning with fixed masks, or of search and training, for methods that
    prune during training (default: the recipe's, else 0)."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Seed of the calibration or training batches (default: the recipe's, else 0)."""
    recipe: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """TOML with the tables [training], [crops] and [task]."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT", help_behavior_hint="")] = None
    """Input size for a budget in milliseconds (default: that of a 1280x720 output)."""
    threads: int = 2
    """Threads of the engine for a budget in milliseconds."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write an HTML page that compares both networks, as the command report does."""
    scale: Annotated[int | None, tyro.conf.arg(metavar="2|3|4", help_behavior_hint="")] = None
    """Enlargement of a super-resolution network that is given by name."""

    def run(self) -> Answer:
        from thinlens.api import prune, save
        from thinlens.cli.values import size
        from thinlens.experiments.half_precision import half_precision_loss
        from thinlens.experiments.networks import HD_SIZE, runnable_shape
        from thinlens.tasks import make_task
        from thinlens.training.loop import Trainer

        kind, options = self._method(), self._options()
        m = options.pop("m", getattr(self, "m", None))
        budget = self._budget(kind)
        network, recipe = self._network(kind), self._recipe()
        task = make_task(**{**network.task, **recipe.task})
        shape = runnable_shape(network.module, task, HD_SIZE)
        training = self._training(kind, task)
        settings = self._settings(training)
        with progress_bar(f"pruning {self.checkpoint}") as report:
            pruned = prune(
                network.module,
                budget=budget,
                method=kind.NAME,
                m=m,
                data=self._data(kind, network, task, settings, training),
                task=task,
                size=size(self.size) if self.size else shape[1:],
                threads=self.threads,
                trainer=Trainer(settings, self.out, report),
                preset=self.preset,
                **options,
            )
        size_in_bytes = save(self.out, pruned, model=network.model, task=task, store=self.store)
        answer = self._answer(kind, pruned, shape, budget, size_in_bytes)
        answer = _with_hard_images(answer, network.module, pruned.module, task)
        if self.report is not None:
            answer = replace(answer, text=(*answer.text, self._write_report(self.report)))
        if self.store is None:
            return answer
        loss = half_precision_loss(pruned.module, task)
        line = f"fp16: {loss:.1f} dB to the network in its own precision"
        return replace(
            answer, content={**answer.content, "fp16_psnr": loss}, text=(*answer.text, line)
        )

    def _answer(
        self,
        kind: type[Method],
        pruned: Pruned,
        shape: tuple[int, int, int],
        budget: str,
        size_in_bytes: int,
    ) -> Answer:
        from thinlens.report.search_plots import draw_search
        from thinlens.report.tables import format_giga, format_integer
        from thinlens.sparsity.budget import Budget, parse_milliseconds
        from thinlens.sparsity.summary import BUDGET_BASE, summarize

        milliseconds, record = parse_milliseconds(budget), pruned.record
        summary = summarize(pruned.module, pruned.patterns, shape)
        base, total = record["budget_base"], summary.total
        achieved = summary.budget if base == BUDGET_BASE else record["achieved"]
        kept = f"{achieved:.2%} of the {BASES[base]}" if base in BASES else f"{achieved:.2f} ms"
        value = Budget.parse(budget).kept if milliseconds is None else milliseconds
        content = {
            "method": kind.NAME,
            "budget": float(value),
            "budget_base": base,
            "achieved": achieved,
            "macs": total.macs,
            "params": total.params,
            "bytes": size_in_bytes,
            "seconds": round(record["seconds"], 3),
            "merged": bool(record.get("merged")),
            "data": record.get("data"),
            "data_holds": record.get("data_holds"),
            "prunable_share": record.get("prunable_share"),
            "dense_macs": record.get("dense_macs"),
            "layers": summary.entries(),
        }
        sentence = (
            f"{self.out}: {kind.NAME} kept {kept} (budget {budget}): "
            f"{format_giga(total.macs)} GMACs, {format_integer(total.params)} parameters, "
            f"{format_integer(size_in_bytes)} bytes, {record['seconds']:.1f} s"
        )
        title = f"{kind.NAME} {budget}, {self.steps or record.get('steps', 0)} steps"
        lines = draw_search(self.out, kind.NAME, summary, record, title)
        if record.get("merged"):
            lines.insert(0, "the weights that every forward pass computed again were merged")
        lines += self._draw_shares(kind, pruned) if kind.ROUTED else []
        return Answer(content, (sentence, *lines))

    def _write_report(self, path: Path) -> str:
        """Write the page on the dense and the pruned network; return a sentence on it."""
        from thinlens.experiments.network_report import ReportOptions, report

        options = ReportOptions(threads=self.threads)
        try:
            report([self.checkpoint, self.out], path, options=options, progress=True)
        except UsageError as problem:  # the network is pruned and saved
            return f"no report: {problem}"
        return f"{path}: both networks compared"

    def _draw_shares(self, kind: type[Method], pruned: Pruned) -> list[str]:
        """Draw the share of images that each branch had during training."""
        from thinlens.dynamic.model import model_of
        from thinlens.report.branch_plots import draw_branch_shares, read_branch_shares

        names = model_of(pruned.module).branch_names
        try:
            shares = {kind.NAME: read_branch_shares(self.out)}
            draw_branch_shares(self.out / "shares.png", shares, names)
        except UsageError as missing:
            return [f"no picture: {missing}"]
        return [f"{self.out / 'shares.png'}: the share of every branch during training"]

    def _method(self) -> type[Method]:
        """Return the method: that of the sub-command, or of `--method`."""
        from thinlens.methods import METHODS

        kind: type[Method] | None = self.KIND
        if kind is not None:
            return kind
        name = getattr(self, "method", DEFAULT_METHOD)
        check_choice("method", name, METHODS)
        return METHODS[name]

    def _options(self) -> dict[str, Any]:
        """Return the given options; `UsageError` for one that the method does not have."""
        from thinlens.cli.method_flags import option_owners

        options = dict(getattr(self, OPTIONS, {}))
        name = self._method().NAME
        for key, value in options.items():
            owners = option_owners(key)
            if name not in owners:
                flag = key.replace("_", "-")
                raise UsageError(f"--{flag} {value}: only {', '.join(owners)} has {key}")
        return options

    def _budget(self, kind: type[Method]) -> str:
        """Return the budget, which routed networks call a target cost."""
        flags = {"--budget": getattr(self, "budget", None)}
        flags["--target-cost"] = getattr(self, "target_cost", None)
        flag = budget_flag(kind)
        (other,) = flags.keys() - {flag}
        if flags[flag] is None:
            raise UsageError(f"{kind.NAME} wants {flag}, such as 58%")
        if flags[other] is not None:
            raise UsageError(f"{other} {flags[other]}: {kind.NAME} takes {flag}")
        return str(flags[flag])

    def _network(self, kind: type[Method]) -> Checkpoint:
        """Load the checkpoint, or build the network of that name where no weights are needed."""
        from thinlens.api import load_checkpoint
        from thinlens.experiments import networks
        from thinlens.methods import METHODS
        from thinlens.models import MODELS

        by_name = self.checkpoint in MODELS and not Path(self.checkpoint).exists()
        if not by_name:
            if self.scale is not None:
                raise UsageError(f"--scale {self.scale} is for networks by name")
            return load_checkpoint(self.checkpoint)
        if not kind.FROM_NAME:
            others = ", ".join(name for name, other in METHODS.items() if other.FROM_NAME)
            raise UsageError(
                f"{self.checkpoint} is a network without weights, which only {others} prunes: "
                "wanted a checkpoint"
            )
        module = networks.initialize_network(self.checkpoint, self.scale)
        return networks.as_checkpoint(self.checkpoint, module, {})

    def _recipe(self) -> TrainingRecipe:
        from thinlens.experiments.recipe import read_recipe

        recipe = read_recipe(self.recipe)
        for table, content in (("network", recipe.network), ("start", recipe.start)):
            if content:
                raise UsageError(f"{self.recipe}: [{table}] is for thinlens train")
        return recipe

    def _training(self, kind: type[Method], task: Task) -> dict[str, Any]:
        """Return the training settings and crops: of flags, else of the recipe, else the preset."""
        from thinlens.experiments.recipe import read_toml

        written = read_toml(self.recipe) if self.recipe else {}
        shared = {"steps": self.steps, "seed": self.seed}
        return {
            **kind.training_preset(self.preset, task),
            **written.get("training", {}),
            **written.get("crops", {}),
            **{key: value for key, value in shared.items() if value is not None},
            **getattr(self, "training", {}),
        }

    def _settings(self, training: Mapping[str, Any]) -> Settings:
        """Return the training settings, by default those of fine-tuning."""
        from thinlens.experiments.recipe import CROP_KEYS, FINE_TUNING_RATE
        from thinlens.training.settings import Settings

        values = {key: value for key, value in training.items() if key not in CROP_KEYS}
        return Settings(**{"steps": 0, "learning_rate": FINE_TUNING_RATE, **values})

    def _data(
        self,
        kind: type[Method],
        network: Checkpoint,
        task: Task,
        settings: Settings,
        training: Mapping[str, Any],
    ) -> Data:
        """Return the crops of --data or of scikit-image's photographs; None if none are needed."""
        from thinlens.experiments.photographs import skimage_calibration, skimage_inputs
        from thinlens.experiments.recipe import CROP_KEYS
        from thinlens.training.folder_data import DataSource

        crops = {key: value for key, value in training.items() if key in CROP_KEYS}
        steps = settings.steps
        options = getattr(self, OPTIONS, {})
        reads_targets = kind.reads_targets(steps, self.preset, options)
        trains, holds = kind.trains(steps, options), self._holds()
        source = DataSource(self.data, holds, task, reads_targets, training=trains, crops=crops)
        if self.data is not None:
            return source.batches(network.module)
        if not steps and not kind.NEEDS_DATA:
            return None
        if source.holds_for(network.module) == "inputs":
            return skimage_inputs(network.module, crops)
        return replace(skimage_calibration(task), **crops)

    def _holds(self) -> str | None:
        """Return what --inputs or --targets states of the images of --data."""
        if self.inputs and self.targets:
            raise UsageError("--inputs and --targets: wanted one of them")
        return "inputs" if self.inputs else "targets" if self.targets else None


def budget_flag(kind: type[Method]) -> str:
    """Return the flag that a method's budget is passed by."""
    return "--target-cost" if kind.BUDGET_BASE == "base_flops" else "--budget"
