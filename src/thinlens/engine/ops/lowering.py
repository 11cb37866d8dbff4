"""Interface of a lowering: from an ATen operation's arguments to a node of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from thinlens.engine.graph import FloatArray, Node, Size
from thinlens.errors import UsageError

Arguments = Mapping[str, Any]
"""An ATen operation's arguments by name, defaults included."""


class TraceContext:
    """Nodes and constants behind the tensors of a traced module."""

    def __init__(self, constants: Mapping[int, Tensor], names: Mapping[int, str]) -> None:
        self._constants = constants
        self._names = names
        self.nodes: dict[int, Node] = {}
        """By the identity of the tensor that a node computes."""

    def node(self, tensor: Tensor) -> Node:
        """Return the node that computes `tensor`."""
        if id(tensor) not in self.nodes:
            raise UsageError("the engine cannot compute with constants alone")
        return self.nodes[id(tensor)]

    def is_node(self, value: Any) -> bool:
        """Whether `value` is a tensor that depends on the input."""
        return isinstance(value, Tensor) and id(value) in self.nodes

    def constant(self, value: Any) -> FloatArray | None:
        """Return the values of a number or a constant tensor, in its shape; None for others."""
        if isinstance(value, bool | int | float):
            return np.full((), value, np.float32)
        if not isinstance(value, Tensor) or id(value) not in self._constants:
            return None
        return np.ascontiguousarray(self._constants[id(value)].float().numpy())

    def per_channel(self, value: Any, channels: int) -> FloatArray | None:
        """Return a number, or a constant with one value per channel, as `[channels]`."""
        if isinstance(value, int | float):
            return np.full(channels, value, np.float32)
        if not isinstance(value, Tensor) or id(value) not in self._constants:
            return None
        tensor = self._constants[id(value)].float()
        if tensor.numel() == 1:
            return np.full(channels, float(tensor), np.float32)
        if tensor.dim() >= 3 and tensor.shape[-3:] == (channels, 1, 1) == tensor.shape[-3:]:
            return tensor.reshape(channels).numpy().copy() if tensor.numel() == channels else None
        return None

    def weights(self, value: Tensor | None, channels: int) -> FloatArray:
        """Return a parameter's values; `[channels]` zeros where there is no parameter."""
        if value is None:
            return np.zeros(channels, np.float32)
        if id(value) not in self._constants:
            raise UsageError("the engine wants weights that are parameters, not computed ones")
        return np.ascontiguousarray(self._constants[id(value)].float().numpy())

    def layer(self, weight: Tensor) -> str:
        """Return the name of the module that `weight` is a parameter of, or ""."""
        return self._names.get(id(weight), "").rpartition(".")[0]


Lowering = Callable[[TraceContext, Arguments, Size], Node | None]
"""Return the node of an ATen operation whose output has a size; None: this use is not supported."""


def common_value(values: Sequence[int]) -> int | None:
    """Return the value that all sides have, or None where they differ."""
    return values[0] if len(set(values)) == 1 else None
