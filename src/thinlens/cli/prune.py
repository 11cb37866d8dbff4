"""The verb `prune`: a network becomes thin under a budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from thinlens.checkpoints.format import Checkpoint

PARTS = {
    "prunable_macs": "prunable multiply-adds",
    "macs": "whole network's multiply-adds",
    "params": "whole network's parameters",
    "base_flops": "network's FLOPs, an image on average",
}
"""What a budget that is no time is a part of, by `budget_base`."""

ROUTED = ("classpruning", "multi-width", "multi-depth", "channel-skip", "layer-skip")
"""The methods whose branches a classifier picks from."""

LEARNING_RATE = 1e-3
"""A third of the rate that rfdn-x4 was trained with: its weights are to be kept, not found."""


@dataclass(frozen=True, kw_only=True)
class Prune(Verb):
    """Keep N of every M weights under a budget, and save what is left as a smaller checkpoint.

    Example: thinlens prune rfdn-x4 --method least-squares --budget 1/4 --out thin
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A folder, or a shipped name; for fmp also the name of a network."""
    method: Annotated[
        str,
        tyro.conf.arg(
            metavar="one-shot|least-squares|sls|sr-ste|classpruning|multi-width|multi-depth|"
            "channel-skip|layer-skip|filter|assl|fmp"
        ),
    ]
    """one-shot keeps the largest weights; least-squares chooses by second order and solves for what
    is left, so that it needs no training; filter removes whole channels; all three train on if
    there are steps. sls searches how many weights each layer keeps while it trains; sr-ste lets
    weights come back while it trains; classpruning trains several sparsities of one network and a
    classifier that picks one per image, its rivals (multi-width, multi-depth, channel-skip,
    layer-skip) several widths or depths with weights of their own or shared; assl removes channels
    whose filters training has shrunk; fmp trains from nothing and removes channels and single
    weights together."""
    budget: Annotated[str | None, tyro.conf.arg(metavar="1/8|40ms", help_behavior_hint="")] = None
    """The part of the prunable multiply-adds (filter, assl, fmp: of the metric) that is kept: 1/8,
    0.125 or 12.5%; or the time that one input may take in the native engine on this machine:
    40ms."""
    target_cost: Annotated[str | None, tyro.conf.arg(metavar="58%", help_behavior_hint="")] = None
    """classpruning and its rivals in place of --budget: the mean cost of an image, classifier
    included, as a part of the network's FLOPs."""
    branches: Annotated[str | None, tyro.conf.arg(metavar="1:4,2:4,4:4", help_behavior_hint="")] = (
        None
    )
    """N:M of classpruning's branches, the thinnest first (default: 1:4,2:4,4:4); of its rivals, the
    part N / M of the network's cost."""
    metric: Annotated[str | None, tyro.conf.arg(metavar="macs|params", help_behavior_hint="")] = (
        None
    )
    """What the budget of filter, assl and fmp is a part of, over the whole network (default:
    macs)."""
    criterion: Annotated[
        str | None,
        tyro.conf.arg(metavar="channel|weight|total-fixed|total", help_behavior_hint=""),
    ] = None
    """What of fmp removes what the budget leaves out (default: total, channels and weights)."""
    indicator: Annotated[
        str | None, tyro.conf.arg(metavar="weight|kernel|nm", help_behavior_hint="")
    ] = None
    """What fmp removes beside channels: single weights, kernels, or N:M in groups of --m (default:
    weight)."""
    scale: Annotated[int | None, tyro.conf.arg(metavar="2|3|4", help_behavior_hint="")] = None
    """Enlargement of a super-resolution network that is given by name."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the thin checkpoint."""
    m: int = 32
    """Consecutive input channels in a group."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Images to calibrate or train on (default: the photographs that come with scikit-image)."""
    steps: int = 0
    """Steps of fine-tuning with the mask fixed, or of search and training (sls, sr-ste)."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT", help_behavior_hint="")] = None
    """Input that a budget in milliseconds is for (default: the one of a 1280x720 output)."""
    threads: int = 2
    """Threads of the engine that a budget in milliseconds is for."""
    seed: int = 0
    """Seed of the calibration or training batches."""
    preset: Annotated[
        str | None, tyro.conf.arg(metavar="paper|code|plus|uniform|knapsack", help_behavior_hint="")
    ] = None
    """Settings of a method that trains: the paper's, its official code's or ours (default).
    least-squares: knapsack, N layer by layer (default), or uniform."""

    def run(self) -> Answer:
        from thinlens.api import prune, save
        from thinlens.cli.info import DEFAULT_SIZES
        from thinlens.experiments.networks import input_shape
        from thinlens.experiments.photographs import calibration
        from thinlens.experiments.search_pictures import draw_search
        from thinlens.experiments.values import size
        from thinlens.report.tables import count, giga
        from thinlens.sparsity.budget import Budget, milliseconds
        from thinlens.sparsity.summary import BUDGET_BASE, price
        from thinlens.tasks import make_task
        from thinlens.training.loop import Trainer
        from thinlens.training.settings import Settings

        asked, own = self._asked(), self._own()
        time = milliseconds(asked)
        part = Budget.of(asked) if time is None else None
        network = self._network()
        task = make_task(**network.task)
        shape = input_shape(task, size(DEFAULT_SIZES["sls"]))
        data = self.data if self.data or not self._needs_data() else calibration(task)
        with progress_bar(f"pruning {self.checkpoint}") as report:
            settings = Settings(steps=self.steps, seed=self.seed, learning_rate=LEARNING_RATE)
            trainer = Trainer(settings, self.out, report)
            thin = prune(
                network.module,
                budget=asked,
                method=self.method,
                m=self.m,
                data=data,
                task=task,
                size=size(self.size) if self.size else shape[1:],
                threads=self.threads,
                trainer=trainer,
                preset=self.preset,
                **own,
            )
        size_in_bytes = save(self.out, thin, model=network.model, task=task)
        priced = price(thin.module, thin.patterns, shape)
        base = thin.record["budget_base"]
        achieved = priced.budget if base == BUDGET_BASE else thin.record["achieved"]
        kept = f"{achieved:.2%} of the {PARTS[base]}" if base in PARTS else f"{achieved:.2f} ms"
        content = {
            "method": self.method,
            "budget": float(part.kept if part else time or 0),
            "budget_base": base,
            "achieved": achieved,
            "macs": priced.total.macs,
            "params": priced.total.params,
            "bytes": size_in_bytes,
            "seconds": round(thin.record["seconds"], 3),
            "layers": priced.entries(),
        }
        sentence = (
            f"{self.out}: {self.method} kept {kept} (budget {asked}): "
            f"{giga(priced.total.macs)} GMACs, "
            f"{count(priced.total.params)} parameters, {count(size_in_bytes)} bytes, "
            f"{thin.record['seconds']:.1f} s"
        )
        title = f"{self.method} {asked}, {self.steps} steps"
        drawn = draw_search(self.out, self.method, priced, thin.record, title)
        drawn += self._shares() if self.method in ROUTED else []
        return Answer(content, (sentence, *drawn))

    def _shares(self) -> list[str]:
        """Draw where images went while the classifier learned what they are worth."""
        from thinlens.report.branches import read_shares, shares_picture

        names = (self.branches or "1:4,2:4,4:4").split(",")
        try:
            shares_picture(self.out / "shares.png", {self.method: read_shares(self.out)}, names)
        except UsageError as missing:
            return [f"no picture: {missing}"]
        return [f"{self.out / 'shares.png'}: the share of every branch as training went"]

    def _asked(self) -> str:
        """Return the budget, under the name that the method calls it by."""
        routed = self.method in ROUTED
        asked, other = self.budget, self.target_cost
        if routed:
            asked, other = other, asked
        wanted, unwanted = ("--target-cost", "--budget")[:: 1 if routed else -1]
        if asked is None:
            raise UsageError(f"{self.method} wants {wanted}, such as 58%")
        if other is not None:
            raise UsageError(f"{unwanted} {other}: {self.method} takes {wanted}")
        return asked

    def _network(self) -> Checkpoint:
        """Load the checkpoint, or make the network of that name for a method that wants no more."""
        from thinlens.api import load
        from thinlens.experiments import networks
        from thinlens.models import MODELS

        by_name = self.checkpoint in MODELS and not Path(self.checkpoint).exists()
        if not by_name:
            if self.scale is not None:
                raise UsageError(f"--scale {self.scale} is for networks by name")
            return load(self.checkpoint)
        if self.method != "fmp":
            raise UsageError(
                f"{self.checkpoint} is a network without weights, which only fmp prunes: "
                "wanted a checkpoint"
            )
        return networks.unsaved(self.checkpoint, networks.fresh(self.checkpoint, self.scale), {})

    def _own(self) -> dict[str, Any]:
        """Return the settings that only some methods have; `UsageError` for another's."""
        owners = {
            "branches": ROUTED,
            "metric": ("filter", "assl", "fmp"),
            "criterion": ("fmp",),
            "indicator": ("fmp",),
        }
        given = {key: getattr(self, key) for key in owners if getattr(self, key) is not None}
        for key, value in given.items():
            if self.method not in owners[key]:
                raise UsageError(f"--{key} {value}: only {', '.join(owners[key])} has {key}")
        return {**given, **({"groups_of": self.m} if self.method == "fmp" else {})}

    def _needs_data(self) -> bool:
        return self.steps > 0 or self.method not in ("one-shot", "filter")
