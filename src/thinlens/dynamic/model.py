"""One interface of plain and routed networks: engines, branches, evaluation and checkpoints.

`model_of` wraps a module; the callers above this package never test for a routed network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from thinlens.dynamic.routed import Routed
from thinlens.dynamic.router import (
    BranchPolicy,
    ImageRouter,
    RoutedRunner,
    by_noise_level,
    fixed_branch,
    shuffled,
)
from thinlens.dynamic.samples import BranchImages, restore_by_branches
from thinlens.engine.compilation import compile as compile_module
from thinlens.errors import UsageError
from thinlens.models.finite_weights import check_finite_network
from thinlens.progress import Progress
from thinlens.restoration.evaluation import Evaluation, evaluate
from thinlens.restoration.network import EngineFactory, Network
from thinlens.sparsity.pattern import Pattern, SharedRanks
from thinlens.tasks.denoising import Denoising, at_sigma
from thinlens.tasks.folders import open_pairs
from thinlens.tasks.task import Task

ROUTERS = ("learned", "oracle", "random")
"""Selection of branches: by the classifier, by the true noise level, at random; or a number."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Settings of an evaluation on a test folder."""

    seed: int = 0
    """Seed of random degradation."""
    sigmas: tuple[float, ...] = ()
    """Noise levels at each of which all images are evaluated."""
    router: str = "learned"
    """learned, oracle, random or the number of a branch."""
    trained_for: Task | None = None
    """The task of training, whose noise levels the oracle router assigns to branches."""


class Model(ABC):
    """What the API, checkpoints and experiments need of a network."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    def base(self) -> nn.Module:
        """The plain network: the largest branch of a routed one."""
        return self.module

    @abstractmethod
    def runner(self, make: EngineFactory) -> Network:
        """Return a callable that runs every branch in the engine of `make`."""

    @abstractmethod
    def branch(self, index: int | None, source: str) -> nn.Module:
        """Return a branch as a plain network, by default the largest.

        `source` names the network in the `UsageError` for a branch that does not exist.
        """

    @abstractmethod
    def evaluate(
        self,
        task: Task,
        folder: Path,
        make: EngineFactory,
        options: EvaluationOptions,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Evaluate the network, run by `make`, on a test folder by the task's protocol."""

    def routers(self, noise_levels: int) -> Sequence[str]:
        """Return the routers to compare with the classifier for so many noise levels."""
        return ()

    def branch_images(
        self, task: Task, folder: Path, options: EvaluationOptions
    ) -> dict[str, BranchImages]:
        """Restore a folder's first image by every branch, at every noise level, by label."""
        return {}

    @property
    def branch_names(self) -> Sequence[str]:
        """The N:M patterns or cost fractions of the branches; none in a plain network."""
        return ()

    def checkpoint_entry(
        self, model: str, patterns: Mapping[str, Pattern]
    ) -> tuple[str, Mapping[str, Pattern | SharedRanks]]:
        """Return the registry name and the packed structures of a checkpoint.

        `model` is the registry name of the base network.
        """
        return model, patterns

    def load_rank_structures(  # noqa: B027 - a plain network has none
        self, structures: Mapping[str, SharedRanks]
    ) -> None:
        """Set the ranks that a checkpoint holds beside the weights."""


class PlainModel(Model):
    """A network without branches."""

    def runner(self, make: EngineFactory) -> Network:
        return make(self.module)

    def branch(self, index: int | None, source: str) -> nn.Module:
        if index is not None:
            raise UsageError(f"--branch {index}: {source} has no branches")
        return self.module

    def evaluate(
        self,
        task: Task,
        folder: Path,
        make: EngineFactory,
        options: EvaluationOptions,
        progress: Progress | None = None,
    ) -> Evaluation:
        running = self.runner(make)
        if options.router != "learned":
            raise UsageError(f"router {options.router!r}: this network has one branch")
        seed, sigmas = options.seed, options.sigmas
        return evaluate(running, task, folder, seed=seed, sigmas=sigmas, progress=progress)


class RoutedModel(Model):
    """A network of several branches, one of which a classifier selects for every image."""

    def __init__(self, module: Routed) -> None:
        super().__init__(module)
        self._routed = module

    @property
    def base(self) -> nn.Module:
        return self._routed.network

    @property
    def branch_names(self) -> Sequence[str]:
        return str(self._routed.branches).split(",")

    def runner(self, make: EngineFactory) -> Network:
        return RoutedRunner(self._routed, [make(x) for x in self._routed.extract_branches()])

    def branch(self, index: int | None, source: str) -> nn.Module:
        last = self._routed.num_branches - 1
        if index is not None and not 0 <= index <= last:
            raise UsageError(f"--branch {index}: {source} has branches 0 to {last}")
        return self._routed.extract_branch(last if index is None else index)

    def evaluate(
        self,
        task: Task,
        folder: Path,
        make: EngineFactory,
        options: EvaluationOptions,
        progress: Progress | None = None,
    ) -> Evaluation:
        branches = [make(branch) for branch in self._routed.extract_branches()]

        def run(
            policy: BranchPolicy | None, progress: Progress | None
        ) -> tuple[Evaluation, ImageRouter]:
            router = ImageRouter(self._routed, policy, branches)
            seed, sigmas = options.seed, options.sigmas
            scores = evaluate(router, task, folder, seed=seed, sigmas=sigmas, progress=progress)
            return scores, router

        if options.router == "random":
            _, learned = run(None, None)
            evaluation, router = run(shuffled(learned.classes, options.seed), progress)
        else:
            evaluation, router = run(self._policy(task, folder, options), progress)
        by_image = zip(evaluation.per_image, router.classes, strict=True)
        return replace(
            evaluation,
            per_image=tuple(replace(score, branch=branch) for score, branch in by_image),
            routing={"router": options.router, **router.cost_report()},
        )

    def _policy(self, task: Task, folder: Path, options: EvaluationOptions) -> BranchPolicy | None:
        """Return the branch selection of a router; None stands for the classifier."""
        if options.router == "learned":
            return None
        if options.router == "oracle":
            return self._oracle(task, folder, options)
        numbers = [str(index) for index in range(self._routed.num_branches)]
        if options.router not in numbers:
            choices = ", ".join([*ROUTERS, *numbers])
            raise UsageError(f"router {options.router!r}: wanted {choices}")
        return fixed_branch(int(options.router))

    def _oracle(self, task: Task, folder: Path, options: EvaluationOptions) -> BranchPolicy:
        levels, branches = noise_levels(options.trained_for or task), self._routed.num_branches
        if levels and len(levels) != branches:
            raise UsageError(
                f"router oracle: {len(levels)} noise levels and {branches} branches: "
                "wanted one branch for each"
            )
        images = len(open_pairs(folder, task))
        return by_noise_level(options.sigmas or noise_levels(task), levels, images)

    def routers(self, noise_levels: int) -> Sequence[str]:
        return ("oracle", "random") if noise_levels == self._routed.num_branches else ("random",)

    def branch_images(
        self, task: Task, folder: Path, options: EvaluationOptions
    ) -> dict[str, BranchImages]:
        levels: dict[str, Task] = {
            f"sigma {sigma:g}": at_sigma(task, sigma) for sigma in options.sigmas
        }
        return {
            label: restore_by_branches(self._routed, level, folder, seed=options.seed)
            for label, level in (levels or {task.name: task}).items()
        }

    def checkpoint_entry(
        self, model: str, patterns: Mapping[str, Pattern]
    ) -> tuple[str, Mapping[str, Pattern | SharedRanks]]:
        if model != self._routed.NAME:
            self._routed.set_base(model)
        return self._routed.NAME, self._routed.rank_structures()

    def load_rank_structures(self, structures: Mapping[str, SharedRanks]) -> None:
        self._routed.load_rank_structures(structures)


def model_of(module: nn.Module) -> Model:
    """Wrap a network in the interface of its kind."""
    return RoutedModel(module) if isinstance(module, Routed) else PlainModel(module)


def noise_levels(task: Task) -> tuple[float, ...]:
    """Return the noise levels of a denoising task, standard deviations of 255; others have none."""
    return (task.sigmas or (task.sigma,)) if isinstance(task, Denoising) else ()


def compiled_runner(module: nn.Module, **options: Any) -> Network:
    """Compile a network, branch by branch; `options` are those of `engine.compile`.

    Weights that are NaN or infinite are a `UsageError`.
    """
    check_finite_network(module)
    return model_of(module).runner(lambda branch: compile_module(branch, **options))
