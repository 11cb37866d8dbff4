"""The command `train`: train a network on a folder of images."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
"""As `training.state` names it."""

OTHER_TRAINERS = {"logits": "prune --method classpruning", "log errors": "adapt"}
"""The command that trains networks whose output is no image, by kind of output."""


@dataclass(frozen=True, kw_only=True)
class Train(Verb):
    """Train a network on a folder of images; the same command again resumes where it stopped.

    Example: thinlens train rfdn --scale 4 --data photos --out runs/rfdn --steps 2000
    """

    HAS_OUT_ALONE = True

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """The network, such as rfdn or dncnn-17."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Clean images, from which the task makes its inputs, or a folder of pairs (HR and LR, input
    and target, blur and sharp, DIV2K's, GoPro's or REDS's train), or a text file with an input and
    its target on every line."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the run: training.pt, metrics.jsonl and, once finished, the checkpoint."""
    scale: Annotated[int | None, tyro.conf.arg(metavar="2|3|4", help_behavior_hint="")] = None
    """Enlargement of a super-resolution network (default: the network's own)."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Optimizer steps (default: the recipe's)."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Seed of the weights and the batches (default: the recipe's)."""
    recipe: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """TOML with the tables [training], [crops], [task], [network] and [start]."""

    def run(self) -> Answer:
        import torch

        from thinlens.api import train
        from thinlens.checkpoints.default_tasks import default_task, described
        from thinlens.checkpoints.format import save
        from thinlens.experiments.networks import (
            initialize_network,
            load_mean_weights,
        )
        from thinlens.experiments.recipe import check_options, read_recipe
        from thinlens.models import model_entry
        from thinlens.tasks.folders import training_crops

        trained_by = OTHER_TRAINERS.get(model_entry(self.name).output_kind)
        if trained_by:
            raise UsageError(f"{self.name} makes no images: {trained_by} trains it")
        recipe = read_recipe(self.recipe)
        flags = {"steps": self.steps, "seed": self.seed}
        changed: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
        settings = replace(recipe.training, **changed)
        torch.manual_seed(settings.seed)
        if self.recipe is not None:
            check_options(self.recipe, self.name, recipe.network)
        module = initialize_network(self.name, self.scale, options=recipe.network)
        if recipe.starts:
            load_mean_weights(recipe.starts, self.name, module)
        task = default_task(self.name, module, **recipe.task)
        crops = training_crops(task, self.data, **recipe.crops)
        log.info("%s", crops.description)
        started = time.monotonic()
        with progress_bar(f"training {self.name}") as report:
            train(module, crops, settings=settings, state=self.out, progress=report)
        seconds = round(time.monotonic() - started, 3)
        last = _last_line(self.out / METRICS_FILE)
        training = {
            **asdict(settings),
            "crops": dict(recipe.crops),
            "images": len(crops.targets),
            "synthetic": crops.synthetic,
            "data": crops.description,
            "start": dict(recipe.start),
        }
        size = save(
            self.out,
            module,
            model=self.name,
            task=described(task),
            provenance={"training": training},
        )
        content = {
            "model": self.name,
            "task": task.name,
            "scale": task.scale,
            "steps": settings.steps,
            "skipped": int(last.get("skipped") or 0),
            "loss": last.get("loss"),
            "bytes": size,
            "seconds": seconds,
            "data": crops.description,
            "out": str(self.out),
        }
        sentence = f"{self.out}: {self.name} trained for {settings.steps} steps, {size:,} bytes"
        return Answer(content, (sentence, f"data: {crops.description}"))


def _last_line(path: Path) -> dict[str, float]:
    """Return the metrics of the last line; a run of 0 steps has none."""
    from thinlens.files import JsonLines

    records = JsonLines(path).read()
    return records[-1] if records else {}
