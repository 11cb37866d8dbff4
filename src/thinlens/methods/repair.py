"""Repair: train the kept weights of the whole network towards the dense one, without ground truth.

Least squares solves one layer after another, so errors pile up. Here its masks stay fixed and all
kept weights are trained together, on inputs alone: the loss is the distance of the thin network's
output to the dense network's, and of every layer's output to the dense layer's (Romero et al.,
"FitNets", ICLR 2015; Frantar & Alistarh's global AdaPrune, "SPDY", ICML 2022). Inputs on which the
two networks differed most come back, as in online hard example mining (Shrivastava et al., CVPR
2016).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.moments import after_calls
from thinlens.models.copying import copy_network
from thinlens.sparsity.layout import PRUNABLE_TYPES, PrunableModule
from thinlens.sparsity.masking import attach, strip
from thinlens.sparsity.pattern import Pruned
from thinlens.training.loop import Trainer
from thinlens.training.objective import ForwardFunction, PlainObjective, TrainingData
from thinlens.training.settings import Settings
from thinlens.training.state import load_state

STAGE = "repair"
"""Name of the training state and of the log: `training-repair.pt`, `metrics-repair.jsonl`."""

RATE = 0.125
"""Factor of the learning rate of a training from scratch: the weights are solved already."""

OPTIMIZER, SCHEDULE = "adam", "cosine"
"""Of two that were tried for 60 steps on realesr-animevideov3 at 1/4: Adam gained 0.4 to 0.8 dB,
Muon lost 1 to 2 dB, as its updates are as large in directions without an error."""

AVERAGE = 0.1
"""Time constant of the mean of the weights, as a part of the run: the mean of three states of a
run at full rate was 0.5 to 1 dB nearer to the dense network than each (animevideov3 at 1/4)."""

MINED_EVERY = 3
"""One batch in so many consists of the hardest inputs before it."""

POOL_BATCHES = 16
"""Batches of inputs that are remembered, the hardest ones."""

EASIER = 0.7
"""Factor of the error of an input that came back, so that others have their turn."""

CHECKS = 20
"""Times that the held-out inputs are compared in a run."""

HELD_OUT_EPOCH, HELD_OUT_BATCHES = 1_000_000, 2
"""Batches that are compared and not trained on: those of an epoch that no run reaches."""

TIMED_STEPS = 3
"""Steps that are timed for a budget of minutes, after one that is not."""

VARIANCE_FLOOR = 1e-8

CONTRAST = (0.5, 2.0)
"""Range of the factors by which augmentation stretches or narrows the contrast of an input."""

NOISE = 6 / 255
"""Largest standard deviation of the noise that augmentation adds."""


@dataclass(frozen=True, kw_only=True)
class Repair(LeastSquares):
    """Choose masks by least squares, then train all kept weights towards the dense network."""

    NAME: ClassVar[str] = "repair"
    NEEDS_STEPS: ClassVar[bool] = True

    minutes: float = 0.0
    """Minutes of training in place of a number of steps: a few steps are timed first; 0: as many
    steps as asked for."""
    layer_weight: float = 0.5
    """Weight of the layers' distances beside the output's at first; it falls to 0 in a straight
    line."""
    augment: bool = True
    """Permute the colours of inputs, change their contrast and add some noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.minutes < math.inf:
            raise UsageError(f"minutes {self.minutes}: wanted a number of minutes, or 0")
        if not 0 <= self.layer_weight < math.inf:
            raise UsageError(f"layer_weight {self.layer_weight}: wanted 0 or more")

    @classmethod
    def reads_targets(cls, steps: int, preset: str | None, options: Mapping[str, Any]) -> bool:
        """Return False: the dense network is the teacher."""
        return False

    @classmethod
    def trains(cls, steps: int, options: Mapping[str, Any]) -> bool:
        """Return whether there are steps or minutes of training."""
        return steps > 0 or bool(options.get("minutes"))

    def check_steps(self, settings: Settings) -> None:
        """Raise `UsageError` unless the run has a number of steps or of minutes, not both."""
        if self.minutes and settings.steps:
            raise UsageError(
                f"{settings.steps} steps and {self.minutes:g} minutes: wanted one of the two"
            )
        if not self.minutes and not settings.steps:
            raise UsageError(
                "repair trains the kept weights: wanted a number of steps (--steps) or --minutes"
            )

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return the pruned network in evaluation mode; `model` is never changed.

        The same steps, data and options give the same network; minutes do not.
        """
        start = time.monotonic()
        self.check_steps(trainer.settings)
        solved = self.solved(model, data)
        attach(solved.module, solved.patterns)
        average = trainer.settings.average or AVERAGE
        settings = {"optimizer": OPTIMIZER, "schedule": SCHEDULE, "average": average}
        staged = trainer.stage(STAGE, **settings)
        if self.minutes:
            steps = self._steps(model, solved.module, data, staged)
            staged = trainer.stage(STAGE, **settings, steps=steps)
        objective = RepairObjective(self, solved.module, model, data, staged.settings)
        staged.fit(objective, data)
        module, patterns = strip(objective.module)
        seconds = time.monotonic() - start
        options = {key: getattr(self, key) for key in ("minutes", "layer_weight", "augment")}
        record = {**solved.record, **options, **objective.distances()}
        return Pruned(
            module, patterns, {**record, "steps": staged.settings.steps, "seconds": seconds}
        )

    def _steps(
        self, model: nn.Module, thin: nn.Module, data: TrainingData, trainer: Trainer
    ) -> int:
        """Return the steps that fit into the minutes: those of an interrupted run, else timed."""
        path = trainer.folder / f"training-{STAGE}.pt" if trainer.folder else None
        state = load_state(path) if path else None
        if state is not None:
            return int(state["settings"]["steps"])
        settings = replace(trainer.settings, steps=1 + TIMED_STEPS)
        objective = RepairObjective(self, copy.deepcopy(thin), model, data, settings)
        timed = _TimedSteps(objective)
        Trainer(settings).fit(timed, data)
        return max(1, int(60 * self.minutes / timed.seconds_per_step()))


class RepairObjective(PlainObjective):
    """Distance of a masked network to the dense one, of the output and of all layers.

    Keeps the weights with the least distance on held-out inputs: those of some step, of the start,
    or the mean of the last steps.
    """

    def __init__(
        self,
        method: Repair,
        module: nn.Module,
        dense: nn.Module,
        data: TrainingData,
        settings: Settings,
    ) -> None:
        super().__init__(module, settings.loss)
        self._method, self._settings = method, settings
        self._dense = copy_network(dense).eval().requires_grad_(False)
        named = self._dense.named_modules()
        self._names = [name for name, layer in named if isinstance(layer, PRUNABLE_TYPES)]
        self._step = 0
        self._pool: list[tuple[float, Tensor]] = []
        self._held_out = [
            data.batch(settings.seed, HELD_OUT_EPOCH, step)[0] for step in range(HELD_OUT_BATCHES)
        ]
        with torch.no_grad():
            self._dense_outputs = [self._dense(image) for image in self._held_out]
        self._best = self._start = self._distance()
        self._best_state = copy.deepcopy(module.state_dict())

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the parameters, at a part of the learning rate of a training from scratch."""
        return super().param_groups(RATE * learning_rate)

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the output's relative distance, plus the layers' by their falling weight."""
        self.module.eval()  # the statistics of batch norms are those of the dense network
        image, mined = self._input(batch[0])
        weight = self._method.layer_weight * (1 - self._step / max(1, self._settings.steps))
        with torch.no_grad(), _layer_outputs(self._dense, self._names, weight > 0) as dense_layers:
            target = self._dense(image)
        with _layer_outputs(self.module, self._names, weight > 0) as layers:
            output = network(image)
        errors = (output - target).float().square().flatten(1).mean(1)
        self._remember(image, errors.detach(), mined)
        spread = target.float().var() + VARIANCE_FLOOR
        loss: Tensor = ((errors + VARIANCE_FLOOR) / spread).sqrt().mean()
        distances = [_distance(a, b) for a, b in zip(layers, dense_layers, strict=True)]
        if distances:
            loss = loss + weight * torch.stack(distances).mean()
        return loss

    def after_step(self, step: int) -> None:
        """Compare the held-out inputs now and then, and keep the best weights."""
        self._step = step
        every = max(1, self._settings.steps // CHECKS)
        if step % every == 0 or step == self._settings.steps:
            self._compare()

    def finish(self) -> None:
        """Restore the weights with the least distance on the held-out inputs, or keep the mean."""
        self._compare()
        self.module.load_state_dict(self._best_state)

    def _compare(self) -> None:
        distance = self._distance()
        if distance <= self._best:
            self._best, self._best_state = distance, copy.deepcopy(self.module.state_dict())

    def metrics(self) -> dict[str, float]:
        """Return the least distance so far, in decibels."""
        return {"held_out_db": _decibels(self._best)}

    def distances(self) -> dict[str, float]:
        """Return the record's entries: PSNR to the dense network on held-out inputs in [0, 1]."""
        return {"start_db": _decibels(self._start), "held_out_db": _decibels(self._best)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume."""
        pool = [(error, image) for error, image in self._pool]
        best = {"best": self._best, "best_state": self._best_state, "start": self._start}
        return {"step": self._step, "pool": pool, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self._step, self._pool = state["step"], list(state["pool"])
        self._best, self._best_state = state["best"], state["best_state"]
        self._start = state["start"]

    def _input(self, image: Tensor) -> tuple[Tensor, bool]:
        """Return the inputs of this step, and whether they are the hardest of those before."""
        fitting = [entry for entry in self._pool if entry[1].shape == image.shape[1:]]
        if self._step % MINED_EVERY == MINED_EVERY - 1 and len(fitting) >= 2 * len(image):
            hardest = sorted(fitting, key=lambda entry: -entry[0])[: len(image)]
            chosen = {id(entry) for entry in hardest}
            self._pool = [entry for entry in self._pool if id(entry) not in chosen]
            return torch.stack([crop for _, crop in hardest]).to(image), True
        if not self._method.augment:
            return image, False
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + self._step)
        return augmented(image, generator), False

    def _remember(self, image: Tensor, errors: Tensor, mined: bool) -> None:
        factor = EASIER if mined else 1.0
        entries = zip(errors.tolist(), image, strict=True)
        self._pool += [(factor * error, crop.contiguous()) for error, crop in entries]
        self._pool.sort(key=lambda entry: -entry[0])
        del self._pool[POOL_BATCHES * len(image) :]

    @torch.no_grad()
    def _distance(self) -> float:
        """Return the mean squared distance of the outputs on the held-out inputs."""
        self.module.eval()
        pairs = zip(self._held_out, self._dense_outputs, strict=True)
        errors = [float((self.module(x) - y).float().square().mean()) for x, y in pairs]
        return sum(errors) / len(errors)


class _TimedSteps(RepairObjective):
    """The steps of an objective, with their times."""

    def __init__(self, objective: RepairObjective) -> None:
        self.__dict__.update(objective.__dict__)
        self._times = [time.monotonic()]

    def after_step(self, step: int) -> None:
        self._step = step
        self._times.append(time.monotonic())

    def finish(self) -> None:
        pass

    def seconds_per_step(self) -> float:
        """Return the mean time of a step; the first one is slower."""
        return max(1e-6, (self._times[-1] - self._times[1]) / (len(self._times) - 2))


@contextmanager
def _layer_outputs(network: nn.Module, names: list[str], enabled: bool) -> Iterator[list[Tensor]]:
    """Collect the outputs of the named layers in the order of their calls, if enabled."""
    outputs: list[Tensor] = []

    def add(_: str, __: PrunableModule, ___: Tensor, output: Tensor) -> None:
        outputs.append(output)

    with after_calls(network, names if enabled else [], add):
        yield outputs


def _distance(thin: Tensor, dense: Tensor) -> Tensor:
    """Return the mean squared distance in units of the dense output's variance."""
    spread = dense.float().var(correction=0) + VARIANCE_FLOOR
    return (thin - dense).float().square().mean() / spread


def _decibels(error: float) -> float:
    """Return the PSNR of a mean squared error of images in [0, 1]."""
    return -10 * math.log10(max(error, 1e-12))


def augmented(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return inputs `[B, C, h, w]` with permuted colours, changed contrast and some noise.

    Each input has its own draw; values stay within the range of the batch.

    >>> image = torch.rand(2, 3, 8, 8)
    >>> augmented(image, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(image)

    low, high = image.amin(), image.amax()
    colours = [torch.randperm(image.shape[1], generator=generator) for _ in image]
    permuted = torch.stack([x[order.to(x.device)] for x, order in zip(image, colours, strict=True)])
    lowest, highest = (math.log(factor) for factor in CONTRAST)
    factors = (lowest + (highest - lowest) * draw(len(image), 1, 1, 1)).exp()
    changed = draw(len(image), 1, 1, 1) < 0.5
    mean = permuted.mean((1, 2, 3), keepdim=True)
    contrast = torch.where(changed, mean + factors * (permuted - mean), permuted)
    noise = NOISE * (high - low) * draw(len(image), 1, 1, 1) * (draw(len(image), 1, 1, 1) < 0.25)
    rough = torch.randn(image.shape, generator=generator).to(image)
    return (contrast + noise * rough).clamp(low, high)
