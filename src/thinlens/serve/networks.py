"""The networks that the server offers: what each is, and what restores images by it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinlens.adaptive.bundle import Bundle
from thinlens.adaptive.options import RoutingOptions
from thinlens.api import load, runner
from thinlens.checkpoints.config_file import read_config
from thinlens.checkpoints.format import CONFIG_FILE, TENSORS_FILE, Checkpoint
from thinlens.checkpoints.shipped import WEIGHTS, list_shipped
from thinlens.engine.precision import FAST, PRECISIONS, find_precision
from thinlens.engine.selected_engine import ENGINES, SelectedEngine
from thinlens.errors import UsageError, check_choice
from thinlens.restoration.forecast import seconds_per_pixel
from thinlens.restoration.network import Restorer
from thinlens.restoration.options import RestoreOptions
from thinlens.tasks import make_task
from thinlens.tasks.task import Task

RUNNING_NETWORKS = 4
"""Networks that stay in memory, each with one precision and image budget."""


MOST_SPEEDS = 256
"""Choices whose speed is kept: image budgets are anybody's."""


@dataclass(frozen=True)
class NetworkEntry:
    """A network as the page offers it."""

    name: str
    is_bundle: bool
    """Whether it is several networks, one of which is selected for every tile."""
    task: str
    """A key of `TASKS`, such as sr."""
    scale: int
    """Result pixels for an input pixel along a side."""
    budget: str | None
    """The part of the prunable multiply-adds that is kept, such as 1/4; None where it is dense."""
    bytes: int | None
    """Of the stored weights; None for a bundle."""

    def as_json(self) -> dict[str, Any]:
        """Return what `GET /networks` lists."""
        return asdict(self)


@dataclass(frozen=True)
class NetworkChoice:
    """The network of an image, and how it runs."""

    network: str
    precision: str = "fp32"
    image_budget: str | None = None
    """Of a bundle: the multiply-adds or milliseconds of an image, such as 30%, 6G or 40ms."""
    beta: float | None = None
    """Of a bundle, in place of an image budget: the weight of the cost (SLS, equation 8)."""

    @property
    def plain(self) -> NetworkChoice:
        """The network alone, whose speed is measured: noise may exceed an image budget."""
        return NetworkChoice(self.network, self.precision)

    def routing(self) -> RoutingOptions:
        """Return how a bundle selects networks; `UsageError` for a bad budget or beta."""
        return RoutingOptions.read(self.beta, self.image_budget)


@dataclass(frozen=True)
class RunningNetwork:
    """A network in memory, and what restores images by it."""

    restorer: Restorer
    task: Task


class NetworkTable:
    """The networks by name; those that are used stay in memory, at most `RUNNING_NETWORKS`.

    `models` are folders, files of weights and names beside the shipped ones. They are read once,
    so that a damaged one is a `UsageError` before the server starts. Names are unique: a second
    folder of a name is called by its path.
    """

    def __init__(
        self, models: Sequence[str] = (), engine: str = "auto", tile: int | None = None
    ) -> None:
        check_choice("--engine", engine, ENGINES)
        self._engine, self._options = engine, RestoreOptions(tile=tile)
        self._sources: dict[str, str] = {}
        self._entries: dict[str, NetworkEntry] = {}
        for model in dict.fromkeys(models):
            name = Path(model).name or model
            name = model if name in self._entries else name
            self._sources[name], self._entries[name] = model, _loaded_entry(name, load(model))
        for name in list_shipped():
            if name not in self._entries:
                self._sources[name], self._entries[name] = name, _shipped_entry(name)
        self._running: OrderedDict[NetworkChoice, RunningNetwork] = OrderedDict()
        self._speeds: dict[NetworkChoice, float] = {}

    @property
    def entries(self) -> tuple[NetworkEntry, ...]:
        """What is offered, the given networks first."""
        return tuple(self._entries.values())

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of the engine that can be chosen."""
        return ("fp32",) if self._engine == "torch" else (*PRECISIONS, FAST)

    def entry(self, name: str) -> NetworkEntry:
        """Return the network of that name; `UsageError` where there is none."""
        if name not in self._entries:
            check_choice("network", name, self._entries)
        return self._entries[name]

    def check(self, choice: NetworkChoice) -> None:
        """Raise `UsageError` for a network or options that cannot run, before anything is read."""
        entry = self.entry(choice.network)
        if choice.precision != FAST:
            find_precision(choice.precision)
        check_choice("precision", choice.precision, self.precisions)
        if choice == choice.plain:
            return
        if not entry.is_bundle:
            raise UsageError(
                f"image budget and beta are for bundles (thinlens adapt); {entry.name} is none"
            )
        choice.routing()

    def speed(self, choice: NetworkChoice) -> float | None:
        """Return the measured seconds of an input pixel; None where it has not run yet.

        Of an image budget or a beta that has not run yet it is that without.
        """
        speed = self._speeds.get(choice)
        return self._speeds.get(choice.plain) if speed is None else speed

    def note_speed(self, choice: NetworkChoice, seconds_per_pixel: float) -> None:
        """Note the speed on an image: the next one is more like it than like small noise."""
        if len(self._speeds) > MOST_SPEEDS:
            self._speeds.clear()
        self._speeds[choice] = seconds_per_pixel

    def running(self, choice: NetworkChoice) -> RunningNetwork:
        """Return a network that is ready to run; only one thread may call it.

        It is read and timed where it is not in memory: a folder that is no longer there is a
        `UsageError`.
        """
        if choice not in self._running:
            self.check(choice)
            loaded = load(self._sources[choice.network])
            if isinstance(loaded, Bundle):
                running = self._bundle(loaded, choice)
            else:
                task = make_task(**loaded.task)
                network = runner(loaded, self._engine, choice.precision)
                restorer = self._options.restorer(network, task.channels)
                running = RunningNetwork(restorer, task)
            if choice == choice.plain:
                self.note_speed(choice, seconds_per_pixel(running.restorer, running.task))
            self._running[choice] = running
        self._running.move_to_end(choice)
        while len(self._running) > RUNNING_NETWORKS:
            self._running.popitem(last=False)
        return self._running[choice]

    def _bundle(self, bundle: Bundle, choice: NetworkChoice) -> RunningNetwork:
        make = SelectedEngine(self._engine, precision=choice.precision)
        restorer = bundle.restorer(make, choice.routing(), engine=self._engine)
        return RunningNetwork(restorer, bundle.task)


def _loaded_entry(name: str, loaded: Checkpoint | Bundle) -> NetworkEntry:
    if isinstance(loaded, Bundle):
        return NetworkEntry(name, True, loaded.task.name, loaded.task.scale, None, None)
    task, budget = make_task(**loaded.task), loaded.provenance.get("budget")
    return NetworkEntry(
        name, False, task.name, task.scale, None if budget is None else str(budget), loaded.bytes
    )


def _shipped_entry(name: str) -> NetworkEntry:
    """Describe a shipped checkpoint without reading its weights."""
    folder = WEIGHTS / name
    config = read_config(folder / CONFIG_FILE)
    task, budget = make_task(**config.task), config.provenance.get("budget")
    size = (folder / TENSORS_FILE).stat().st_size
    return NetworkEntry(
        name, False, task.name, task.scale, None if budget is None else str(budget), size
    )
