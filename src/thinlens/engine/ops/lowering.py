"""Interface of a lowering: from an ATen operation's arguments to a node of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from thinlens.engine.graph import FloatArray, Node, Size
from thinlens.errors import UsageError

Arguments = Mapping[str, Any]
"""An ATen operation's arguments by name, defaults included."""


class TraceContext:
    """Nodes and constants behind the tensors of a traced module."""

    def __init__(
        self, parameters: Mapping[int, str], arrays: dict[int, FloatArray] | None = None
    ) -> None:
        self._parameters = dict(parameters)
        self._arrays = {} if arrays is None else arrays
        """The values of parameters by the tensor's identity; filled for later traces, too."""
        self.references: list[Tensor] = []
        """Tensors whose identity `nodes` uses."""
        self.nodes: dict[int, Node] = {}
        """By the identity of the tensor that a node computes."""

    def is_node(self, value: Any) -> bool:
        """Whether `value` is a tensor that depends on the input."""
        return isinstance(value, Tensor) and value.is_meta

    def node(self, tensor: Tensor) -> Node:
        """Return the node that computes `tensor`."""
        if id(tensor) not in self.nodes:
            raise UsageError("the engine cannot compute this with constants alone")
        return self.nodes[id(tensor)]

    def constant(self, value: Any) -> FloatArray | None:
        """Return the values of a number or a constant tensor, in its shape; None for others."""
        if isinstance(value, bool | int | float):
            return np.full((), value, np.float32)
        if not isinstance(value, Tensor) or value.is_meta:
            return None
        if id(value) in self._arrays:
            return self._arrays[id(value)]
        array: FloatArray = np.ascontiguousarray(value.detach().float().numpy())
        if isinstance(value, nn.Parameter) and id(value) in self._parameters:
            self._arrays[id(value)] = array
        return array

    def per_channel(self, value: Any, channels: int) -> FloatArray | None:
        """Return a number, or a constant with one value per channel, as `[channels]`."""
        values = self.constant(value)
        if values is None:
            return None
        if values.size == 1:
            return np.full(channels, values.item(), np.float32)
        if values.shape[-3:] == (channels, 1, 1) and values.size == channels:
            return values.reshape(channels).copy()
        return None

    def weights(self, value: Tensor | None, channels: int) -> FloatArray:
        """Return a parameter's values; `[channels]` zeros where there is no parameter."""
        if value is None:
            return np.zeros(channels, np.float32)
        values = self.constant(value)
        if values is None:
            raise UsageError("the engine wants weights that do not depend on the image")
        return values

    def layer(self, weight: Tensor) -> str:
        """Return the name of the module that `weight` is a parameter of, or ""."""
        return self._parameters.get(id(weight), "").rpartition(".")[0]

    def name_as(self, tensor: Tensor, parameter: Tensor) -> None:
        """Let a tensor that is computed from a parameter belong to the parameter's module."""
        if id(parameter) in self._parameters:
            self._parameters[id(tensor)] = self._parameters[id(parameter)]
            self.references.append(tensor)


Lowering = Callable[[TraceContext, Arguments, Size], Node | list[Node] | None]
"""Return the node of an ATen operation whose (first) output has a size, or one for each output;
None: this use is not supported."""
