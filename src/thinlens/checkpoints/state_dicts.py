"""State dicts of published weights, out of the dictionaries and prefixes of training programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from thinlens.errors import UsageError, quoted
from thinlens.models.entry import StateDict

WRAPPER_KEYS = (
    *("params_ema", "params-ema", "ema", "g_ema", "model_ema", "ema_model", "net_g_ema"),
    *("state_dict_ema", "ema_state_dict", "module_ema", "params", "state_dict"),
    *("model_state_dict", "model_state", "model", "network", "net", "generator", "net_g", "netG"),
    *("state_dict_G", "model_G", "G", "g", "weights", "weight", "module", "state"),
)
"""Keys under which training programs store a state dict, in order of preference: averages first."""

GENERATORS = (
    *("ema_model", "model_ema", "module_ema", "net_g_ema", "g_ema", "generator_ema", "ema"),
    *("net_g", "netG", "generator", "G", "model", "net", "network", "module", "_orig_mod"),
)
"""First parts of names that belong to the network where others belong to losses and critics."""

MOST_LEVELS = 8
"""Dictionaries within each other, or prefixes, that are taken off."""

MOST_NAMED = 3
"""Tensors that a description names, at most."""


@dataclass(frozen=True)
class Contents:
    """The state dict that a file of weights holds."""

    file: Path
    wrapper: str
    """The keys under which it was, such as `model.params_ema`; empty if there were none."""
    tensors: StateDict

    def views(self) -> Iterator[StateDict]:
        """Yield the state dict as it is, and then with prefixes of all names taken off.

        Where some names begin with that of a generator and others do not, the generator's follow.
        """
        pending, seen = [self.tensors], set[frozenset[str]]()
        while pending:
            state = pending.pop(0)
            if frozenset(state) in seen or len(seen) > 2 * MOST_LEVELS:
                continue
            seen.add(frozenset(state))
            yield state
            pending += _shorter(state)

    def description(self) -> str:
        """Say what the file holds: how many tensors, where, and the first ones."""
        names = list(self.tensors)
        shown = [f"{quoted(n)} {list(self.tensors[n].shape)}" for n in names[:MOST_NAMED]]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        where = f" under {quoted(self.wrapper)}" if self.wrapper else ""
        return f"it holds {len(names)} tensors{where}: {', '.join(shown)}{more}"


def contents_of(content: object, file: Path) -> Contents:
    """Find the state dict in what a file holds; a `UsageError` says what it holds instead."""
    located = _locate(content, (), 0)
    if located is None:
        raise UsageError(f"{file} holds no state dict: it holds {_kind(content)}")
    keys, mapping = located
    tensors = {name: x for name, x in mapping.items() if isinstance(x, Tensor)}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise UsageError(f"{file} holds {quoted(name)}, which is no plain tensor")
    return Contents(file, ".".join(keys), tensors)


def without_counters(state: StateDict) -> StateDict:
    """Return the tensors but for single numbers, such as the steps of a training program.

    Batch norms count batches in such a number, which is kept.
    """
    return {
        name: tensor
        for name, tensor in state.items()
        if tensor.dim() > 0 or name.endswith("num_batches_tracked")
    }


def as_floats(state: StateDict) -> StateDict:
    """Return values of half precision as float32, which networks compute in."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _locate(
    content: object, keys: tuple[str, ...], level: int
) -> tuple[tuple[str, ...], Mapping[Any, Any]] | None:
    """Return the state dict within nested dictionaries, and the keys that lead to it."""
    if not isinstance(content, Mapping) or level > MOST_LEVELS:
        return None
    for key in WRAPPER_KEYS:
        if isinstance(content.get(key), Mapping):
            located = _locate(content[key], (*keys, key), level + 1)
            if located is not None:
                return located
    if any(isinstance(x, Tensor) and x.dim() > 0 for x in content.values()):
        return keys, content
    nested = {key: x for key, x in content.items() if isinstance(x, Mapping)}
    located_ones = [_locate(x, (*keys, str(key)), level + 1) for key, x in nested.items()]
    remaining = [located for located in located_ones if located is not None]
    return remaining[0] if len(remaining) == 1 else None


def _shorter(state: StateDict) -> list[StateDict]:
    """Return the states that remain after one part is taken off the beginning of the names."""
    firsts = dict.fromkeys(name.partition(".")[0] for name in without_counters(state))
    if len(firsts) == 1:
        return [_below(next(iter(firsts)), state)]
    return [_below(first, state) for first in GENERATORS if first in firsts]


def _below(first: str, state: StateDict) -> StateDict:
    prefix = f"{first}."
    return {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}


def _is_plain(tensor: Tensor) -> bool:
    import torch

    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
    )


def _kind(content: object) -> str:
    if isinstance(content, Mapping):
        keys = ", ".join(quoted(key) for key in list(content)[:MOST_NAMED])
        more = f" and {len(content) - MOST_NAMED} more" if len(content) > MOST_NAMED else ""
        return f"a dictionary of {keys}{more}" if content else "an empty dictionary"
    if isinstance(content, Tensor):
        return "one tensor"
    if type(content).__name__ == "Placeholder":
        return "a whole module or another object, not its state dict"
    return f"a {type(content).__name__}"
