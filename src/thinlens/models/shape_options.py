"""Options of a network's config that the names and shapes of its tensors show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class ShapeOptions:
    """Reads options off a state dict: sizes of single tensors, and counts of repeated parts.

    >>> import torch
    >>> read = ShapeOptions({"width": ("head.weight", 0)}, {"blocks": r"body\\.(\\d+)\\."})
    >>> read({"head.weight": torch.zeros(8, 3, 3, 3), "body.0.weight": torch.zeros(1)})
    {'width': 8, 'blocks': 1}
    >>> read({"first.weight": torch.zeros(8, 3, 3, 3)}) is None
    True
    """

    sizes: Mapping[str, tuple[str, int]]
    """By option: the name of a tensor and the dimension."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """By option: a regular expression whose first group differs from part to part."""
    others: tuple[str, ...] = ()
    """Further tensors that no other network has."""

    def __call__(self, state: Mapping[str, Tensor]) -> dict[str, int] | None:
        """Return the options; None if the state dict lacks a tensor that shows one."""
        if any(name not in state for name in self.others):
            return None
        options = {}
        for option, (name, dimension) in self.sizes.items():
            if name not in state or state[name].dim() <= dimension:
                return None
            options[option] = state[name].shape[dimension]
        for option, pattern in self.counts.items():
            matches = (re.match(pattern, name) for name in state)
            options[option] = len({match[1] for match in matches if match})
        return options
