"""Detection of the network that a state dict belongs to, by its names and shapes.

Our own networks come first: one fits if a config of it has exactly the tensors. Then those of
spandrel, each by its own test. Every step is tried on the state dict as it is, and with prefixes
taken off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.checkpoints import spandrel_networks
from thinlens.checkpoints.bounded_build import at_most
from thinlens.checkpoints.spandrel_package import architectures, is_installed
from thinlens.checkpoints.state_dicts import Contents, as_floats, without_counters
from thinlens.errors import UsageError
from thinlens.models import MODELS
from thinlens.models.entry import ModelEntry, StateDict
from thinlens.models.finite_weights import check_finite

ENLARGEMENTS = (2, 3, 4)

MOST_LISTED = 3
"""Tensors, or networks that come near, that an error lists, at most."""

PUBLISHED_REGISTRATIONS = 4
"""Parameters that spandrel may register per tensor of a file: a name can ask for many layers."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Fit:
    """A network of `MODELS` whose tensors are those of a file."""

    name: str
    config: Any
    state: StateDict
    """By the module's names."""
    changed: int
    """Options that differ from the network's own config, the scale apart."""


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from a network of `MODELS`."""

    name: str
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    @property
    def names(self) -> int:
        """Missing and unexpected names: how far the file is from the network."""
        return len(self.missing) + len(self.unexpected)

    def __str__(self) -> str:
        """Name the first differences of the first kind."""
        for kind in ("missing", "unexpected", "misshapen"):
            names = getattr(self, kind)
            if names:
                more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
                return f"{kind} {', '.join(names[:MOST_LISTED])}{more}"
        return "nothing"


def detect(contents: Contents) -> tuple[nn.Module, str, Any]:
    """Build the network of a state dict: the module, its name, and spandrel's description or None.

    Raises `UsageError` if none fits, or if two of ours fit equally well.
    """
    near: list[Mismatch] = []
    refusals: list[str] = []
    for state in contents.views():
        outcomes = [x for name, entry in MODELS.items() for x in _compare(name, entry, state)]
        fits = [outcome for outcome in outcomes if isinstance(outcome, Fit)]
        if fits:
            return _chosen(fits, contents)
        near += [outcome for outcome in outcomes if isinstance(outcome, Mismatch)]
    if is_installed():
        for state in contents.views():
            for name in architectures():
                detected = _spandrel_fit(name, state, contents, refusals)
                if detected is not None:
                    return detected
    raise UsageError(_unknown(contents, near, refusals))


def fill(module: nn.Module, state: StateDict, contents: Contents) -> nn.Module:
    """Load converted tensors into a network that they fit, and check that they are finite."""
    check_finite(state, contents.file)
    module.load_state_dict(state)
    check_finite(module.state_dict(), contents.file)
    return module.eval()


def compare_state(name: str, entry: ModelEntry, config: Any, state: StateDict) -> Fit | Mismatch:
    """Compare a state dict with the network `name` of one config."""
    try:
        converted = entry.convert_state(dict(state))
        expected = _shapes(name, config)
    except (LookupError, RuntimeError, UsageError) as error:
        return Mismatch(name, list(state), [], [str(error)])
    extra = {n for n, tensor in converted.items() if n not in expected and tensor.dim() == 0}
    converted = {n: tensor for n, tensor in converted.items() if n not in extra}
    missing = [n for n in expected if n not in converted]
    unexpected = [repr(n)[:80] for n in converted if n not in expected]
    misshapen = [
        f"{n} is {list(converted[n].shape)}, not {list(shape)}"
        for n, shape in expected.items()
        if n in converted and tuple(converted[n].shape) != shape
    ]
    if missing or unexpected or misshapen:
        return Mismatch(name, missing, unexpected, misshapen)
    changed = sum(
        getattr(config, field.name) != getattr(entry.config, field.name)
        for field in fields(config)
        if field.name != "scale"
    )
    return Fit(name, config, converted, changed)


def _compare(name: str, entry: ModelEntry, state: StateDict) -> Iterator[Fit | Mismatch]:
    """Compare a state dict with the configs of a network that its tensors show, the best only."""
    try:
        options = entry.detect(entry.convert_state(dict(state)))
    except (LookupError, RuntimeError):  # renaming may fail on unexpected names
        return
    if options is None:
        return
    scales = ENLARGEMENTS if hasattr(entry.config, "scale") and "scale" not in options else (None,)
    outcomes: list[Fit | Mismatch] = []
    for scale in scales:
        chosen = {**options} if scale is None else {**options, "scale": scale}
        try:
            config = entry.make_config(**chosen)
        except UsageError:
            continue
        outcomes.append(compare_state(name, entry, config, state))
    fits = [outcome for outcome in outcomes if isinstance(outcome, Fit)]
    mismatches = [outcome for outcome in outcomes if isinstance(outcome, Mismatch)]
    yield from fits[:1] or sorted(mismatches, key=lambda outcome: outcome.names)[:1]


def _chosen(fits: list[Fit], contents: Contents) -> tuple[nn.Module, str, None]:
    """Build the network that needs the fewest options; two of equal rank are an error."""
    least = min(fit.changed for fit in fits)
    best = [fit for fit in fits if fit.changed == least]
    if any(fit.config != best[0].config for fit in best):
        names = " and ".join(fit.name for fit in best)
        raise UsageError(
            f"{contents.file} fits {names}, which differ in what no tensor shows: wanted "
            f"{' or '.join(f'--model {fit.name}' for fit in best)}"
        )
    fit = best[0]
    with torch.random.fork_rng(devices=[]):
        module = MODELS[fit.name].build(fit.config)
    return fill(module, fit.state, contents), fit.name, None


def _spandrel_fit(
    name: str, state: StateDict, contents: Contents, refusals: list[str]
) -> tuple[nn.Module, str, Any] | None:
    """Build the architecture `name` if it recognises a state dict; note why it could not."""
    if not architectures()[name].detect(dict(state)):
        return None
    candidates = [state]
    if len(without_counters(state)) < len(state):
        candidates.append(without_counters(state))
    for candidate in candidates:
        try:
            return spandrel_fit(name, candidate, contents)
        except UsageError as error:
            refusals.append(str(error))
    return None


def spandrel_fit(name: str, state: StateDict, contents: Contents) -> tuple[nn.Module, str, Any]:
    """Build the architecture `name` around a state dict; `UsageError` if it does not fit."""
    limit = PUBLISHED_REGISTRATIONS * (len(state) + 1)
    with torch.random.fork_rng(devices=[]), at_most(limit):
        module, description = spandrel_networks.load_published(name, as_floats(state))
    check_finite(module.state_dict(), contents.file)
    return module, spandrel_networks.carried_name(module), description


@lru_cache(maxsize=256)
def _shapes(name: str, config: Any) -> Shapes:
    """Return the shapes of the tensors of a network, without memory for them."""
    with torch.device("meta"):
        state: Mapping[str, Tensor] = MODELS[name].build(config).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _near_defaults(contents: Contents) -> Iterator[Mismatch]:
    """Compare with the usual config of every network; yield those that share a tensor's name."""
    for name, entry in MODELS.items():
        expected = _shapes(name, entry.config)
        for state in contents.views():
            outcome = compare_state(name, entry, entry.config, state)
            if isinstance(outcome, Mismatch) and len(outcome.missing) < len(expected):
                yield outcome


def _unknown(contents: Contents, near: list[Mismatch], refusals: list[str]) -> str:
    """Say that no network fits: what the file holds, and which come near."""
    best: dict[str, Mismatch] = {}
    for mismatch in sorted([*near, *_near_defaults(contents)], key=lambda m: m.names):
        best.setdefault(mismatch.name, mismatch)
    nearest = list(best.values())[:MOST_LISTED]
    text = f"{contents.file} fits no network that is known: {contents.description()}"
    if nearest:
        text += "; near are " + "; ".join(f"{m.name} ({m})" for m in nearest)
    if refusals:
        text += f"; {refusals[0]}"
    elif not is_installed():
        text += "; pip install 'thinlens[spandrel]' knows the published architectures"
    return text
