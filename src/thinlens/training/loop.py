"""Training loop: resumable, on one or several processes.

Run it on N processes with `torchrun --nproc-per-node N -m -- thinlens train ...`.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm, parametrize

from thinlens.errors import RunError, UsageError
from thinlens.models.finite_weights import check_finite_network
from thinlens.progress import Progress
from thinlens.signals import Interrupted, deferred_signals
from thinlens.stored_values import from_stored
from thinlens.training.ema import ModelEma
from thinlens.training.float32_output import Float32Output
from thinlens.training.muon import ADAM_BETAS, ADAM_EPSILON, Muon
from thinlens.training.objective import Objective, TrainingData
from thinlens.training.processes import Processes, exclusive_run, training_mode
from thinlens.training.settings import Settings
from thinlens.training.state import Counters, MetricsLog, load_state, save_state

__all__ = ["Settings", "Trainer"]

log = logging.getLogger(__name__)


class Trainer:
    """Train the module of an `Objective`; the same call again resumes an interrupted run."""

    def __init__(
        self, settings: Settings, folder: Path | None = None, progress: Progress | None = None
    ) -> None:
        self.settings = settings
        self.folder = folder
        """Folder of training states and metrics; None stores nothing on disk."""
        self.progress = progress
        self._suffix = ""

    def reporting(self, progress: Progress) -> Trainer:
        """Return a trainer of the same settings and folder that calls `progress`."""
        trainer = Trainer(self.settings, self.folder, progress)
        trainer._suffix = self._suffix
        return trainer

    def stage(self, name: str, **changed: Any) -> Trainer:
        """Return a trainer for one of several fits of a method: same folder, other files.

        Its state is `training-NAME.pt`, its log `metrics-NAME.jsonl`; `changed` are settings.
        """
        staged = Trainer(replace(self.settings, **changed), self.folder, self.progress)
        staged._suffix = f"{self._suffix}-{name}"
        return staged

    def fit(self, objective: Objective, data: TrainingData) -> None:
        """Run all steps, or until the objective has finished, resuming from the folder's state.

        The module ends in evaluation mode, contiguous, equal on all processes. Raises `Interrupted`
        after Ctrl-C or SIGTERM once the state is saved, and `RunError` after ten non-finite steps
        in a row (the last saved state is finite), or while another process trains in the folder.
        """
        with exclusive_run(self.folder):
            self._fit(objective, data)

    def _fit(self, objective: Objective, data: TrainingData) -> None:
        settings, processes = self.settings, Processes(self.settings.precision)
        mode = training_mode(objective.module, processes.device)
        with mode, deferred_signals() as stop, Float32Output() as float32_output:
            check_finite_network(objective.module)
            optimizer = self._optimizer(objective)
            average = ModelEma(objective.module, settings) if settings.average else None
            done = self._resume(objective, optimizer, average, processes)
            metrics = self._metrics_log(done.step) if processes.is_main else None
            while done.step < settings.steps and not objective.finished:
                epoch, step = divmod(done.step, settings.epoch_steps)
                if step == 0:
                    objective.epoch_start(epoch)
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * settings.lr_factor(done.step)
                batch = processes.shard(data.batch(settings.seed, epoch, step))
                if settings.precision == "bf16":
                    float32_output.attach(objective.module, batch[0].shape)
                processes.seed(settings.seed, done.step)
                loss, finite = _step(objective, optimizer, batch, processes)
                if finite:
                    objective.after_step(done.step + 1)
                    if average:
                        average.update()
                done.count(loss, finite, (settings.seed, epoch, step))
                values = {"loss": done.mean_loss, **objective.metrics()}
                if self.progress and processes.is_main:
                    self.progress(done.step, settings.steps, values)
                finished = done.step == settings.steps or objective.finished
                due = done.step % settings.save_every == 0 or finished
                if due:
                    if metrics:
                        metrics.append(done.step, {**values, "skipped": done.skipped})
                    done.reset_losses()
                stop_signal = int(processes.gather(stop.number or 0).max())
                if due or stop_signal:
                    self._save(objective, optimizer, average, done, processes)
                if stop_signal:
                    raise Interrupted(stop_signal)
            if average:
                average.copy_to_module()
            processes.synchronize(objective.module)
            objective.finish()

    def _resume(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        average: ModelEma | None,
        processes: Processes,
    ) -> Counters:
        path = self._file("training", "pt")
        state = processes.broadcast(load_state(path) if path and processes.is_main else None)
        if state is None:
            processes.synchronize(objective.module)
            return Counters()
        try:
            done = from_stored(Counters, state["counters"], "the progress of the run")
            earlier = Settings.from_dict(state["settings"])
        except UsageError as error:
            raise UsageError(f"{path}: {error}: delete it to start the run again") from error
        differences = self.settings.differences(earlier, done.step)
        if differences:
            raise UsageError(
                f"{path} is of a run with {', '.join(differences)}: "
                "choose another --out, or delete it"
            )
        try:
            objective.load_state_dict(state["objective"])
            objective.module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            if average:
                average.load_state_dict(state["average"])
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path} is of another network or method: choose another --out, or delete it"
            ) from error
        log.info("resuming %s at step %d", self.folder, done.step)
        return done

    def _save(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        average: ModelEma | None,
        done: Counters,
        processes: Processes,
    ) -> None:
        """Write the state, by the main process; all wait until it is on disk."""
        path = self._file("training", "pt")
        if not all(weight.isfinite().all() for weight in objective.module.parameters()):
            raise RunError(f"a weight is not finite after step {done.step}: nothing was saved")
        if path and processes.is_main:
            state = {
                "settings": asdict(self.settings),
                "counters": asdict(done),
                "module": objective.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "objective": objective.state_dict(),
            }
            if average:
                state["average"] = average.state_dict()
            save_state(path, state)
        processes.barrier()

    def _optimizer(self, objective: Objective) -> torch.optim.Optimizer:
        rate = self.settings.learning_rate
        groups = objective.param_groups(rate)
        for group in groups:
            group["initial_lr"] = group["lr"]
        if self.settings.optimizer == "muon":
            return Muon(groups, lr=rate)
        return torch.optim.Adam(groups, lr=rate, betas=ADAM_BETAS, eps=ADAM_EPSILON)

    def _metrics_log(self, step: int) -> MetricsLog | None:
        path = self._file("metrics", "jsonl")
        return MetricsLog(path, step) if path else None

    def _file(self, stem: str, ending: str) -> Path | None:
        return self.folder / f"{stem}{self._suffix}.{ending}" if self.folder else None


def _step(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    processes: Processes,
) -> tuple[float, bool]:
    """Take one step; return its loss and whether loss and gradients were finite. A step that is not
    changes no weight, buffer or optimizer state, on any process."""
    buffers = [(buffer, buffer.clone()) for buffer in objective.module.buffers()]
    optimizer.zero_grad()
    with parametrize.cached():
        with processes.autocast():
            loss = objective.loss(objective.module, batch)
        loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    processes.average_gradients(parameters)
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    gathered = processes.gather(loss, norm)
    finite = bool(gathered.isfinite().all())
    if finite:
        optimizer.step()
    else:
        for buffer, before in buffers:  # a forward pass updates batch statistics
            buffer.copy_(before)
    return float(gathered[:, 0].mean()), finite
