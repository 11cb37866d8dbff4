"""The backend `thinlens` of torch.compile: the engine runs what it knows, torch the rest.

`torch.compile(module, backend="thinlens")` finds `compile_graph` by the entry point group
`torch_dynamo_backends`. A graph runs in the engine if it maps one batch of images to another and no
gradient is asked for; operations that the engine does not know run in torch between its own.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from thinlens.engine.compiled import Compiled
from thinlens.engine.native import native
from thinlens.errors import UsageError
from thinlens.models.copying import copy_network

IN_PLACE_OPERATORS = frozenset(
    {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem}
)

SHAPE_METHODS = frozenset(
    {"view", "reshape", "expand", "repeat", "unflatten", "new_zeros", "new_ones", "new_empty"}
    | {"zeros", "ones", "full", "empty", "rand", "randn", "split", "chunk"}
)
"""Operations whose arguments may hold the number of images that a graph was made for."""


def compile_graph(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """Return what runs a graph of torch.compile: the engine where it can, else torch.

    Results in the engine agree with torch to a few 1e-6 of their size. Weights may change between
    calls: the graph is then compiled anew. Where torch runs a graph, one warning says why: it has
    several images, other results than one tensor, a network in training mode, a float type or a
    device that the engine does not have, or gradients are recorded.

    >>> fast = torch.compile(nn.Conv2d(3, 8, 3).eval(), backend=compile_graph)
    >>> with torch.no_grad():
    ...     fast(torch.rand(1, 3, 9, 9)).shape
    torch.Size([1, 8, 7, 7])
    """
    if native() is None:  # it has warned
        return graph
    try:
        return CompiledGraph(graph, inputs)
    except UsageError as error:
        _warn(str(error))
        return graph


class CompiledGraph:
    """A graph whose weights are arguments of every call, and the engine that holds a copy."""

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Any]) -> None:
        self._graph = graph
        self._image = _image_position(graph, inputs)
        self._sides = _sides(graph, self._image)
        _check(graph, self._image)
        self._engine: Compiled | None = None
        self._weights: list[tuple[Tensor, int]] = []
        """The weights that the engine has copied, and how often each had been written."""
        self._refused = False
        self._has_warned = False

    def __call__(self, *inputs: Any) -> Any:
        image = inputs[self._image]
        reason = "" if self._refused else _reason_for_torch(image, inputs)
        if self._refused or reason:
            if reason and not self._has_warned:
                self._has_warned = True
                _warn(reason)
            return self._graph(*inputs)
        try:
            return (self._compiled(inputs).execute(image),)
        except UsageError as error:
            self._refused = True
            _warn(str(error))
            return self._graph(*inputs)

    def _compiled(self, inputs: Sequence[Any]) -> Compiled:
        """Return the engine for the weights among `inputs`."""
        weights = {i: x for i, x in enumerate(inputs) if isinstance(x, Tensor) and i != self._image}
        stored = [*self._graph.parameters(), *self._graph.buffers()]
        now = [(x, -1 if x.is_inference() else x._version) for x in [*weights.values(), *stored]]
        unchanged = len(now) == len(self._weights) and all(
            tensor is before and writes == before_writes
            for (tensor, writes), (before, before_writes) in zip(now, self._weights, strict=True)
        )
        if self._engine is None or not unchanged:
            bound = BoundGraph(self._graph, weights, self._image, self._sides)
            frozen = copy_network(bound).eval().requires_grad_(False)
            self._engine, self._weights = Compiled(frozen, torch.get_num_threads()), now
        return self._engine


class BoundGraph(nn.Module):
    """A graph with its weights and sizes bound: images `[B, C, H, W]` in, one tensor out."""

    def __init__(
        self, graph: fx.GraphModule, weights: dict[int, Tensor], image: int, sides: dict[int, int]
    ) -> None:
        super().__init__()
        self.graph = graph
        self._image, self._sides, self._positions = image, sides, list(weights)
        for position, tensor in weights.items():
            self.register_buffer(f"weight_{position}", tensor.detach())

    def forward(self, image: Tensor) -> Any:
        arguments = {position: getattr(self, f"weight_{position}") for position in self._positions}
        arguments |= {position: image.shape[side] for position, side in self._sides.items()}
        arguments[self._image] = image
        return self.graph(*(arguments[position] for position in range(len(arguments))))[0]


def _warn(reason: str) -> None:
    warnings.warn(f"torch runs a graph of torch.compile: {reason}", stacklevel=3)


def _reason_for_torch(image: Any, inputs: Sequence[Any]) -> str:
    """Return why this call cannot run in the engine; empty where it can."""
    if image.dtype != torch.float32 or image.device.type != "cpu" or not image.numel():
        return f"wanted images in float32 on the CPU, not {image.dtype} on {image.device}"
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "gradients are recorded: wanted torch.no_grad() or torch.inference_mode()"
    return ""


def _image_position(graph: fx.GraphModule, inputs: Sequence[Any]) -> int:
    """Return which input is the batch of images: the only tensor that is not a module's."""
    images = [
        i for i, x in enumerate(inputs) if isinstance(x, Tensor) and not _belongs_to_a_module(x)
    ]
    if len(images) != 1 or inputs[images[0]].dim() != 4:
        shapes = [tuple(inputs[i].shape) for i in images]
        raise UsageError(f"it takes tensors of the shapes {shapes}: wanted one batch [B, C, H, W]")
    results = next(iter(graph.graph.find_nodes(op="output"))).args[0]
    if not isinstance(results, list | tuple) or len(results) != 1:
        raise UsageError("it does not return one tensor")
    return images[0]


def _belongs_to_a_module(tensor: Tensor) -> bool:
    """Return whether torch.compile passes a tensor because a module holds it."""
    static = getattr(tensor, "_dynamo_static_input_type", None)  # of buffers, too
    return isinstance(tensor, nn.Parameter) or static is not None


def _sides(graph: fx.GraphModule, image: int) -> dict[int, int]:
    """Return the axis of the image whose length an input is, by the input's position."""
    placeholders = graph.graph.find_nodes(op="placeholder")
    values = [node.meta.get("example_value") for node in placeholders]
    shape = [str(side) for side in getattr(values[image], "shape", ())]
    sides: dict[int, int] = {}
    for position, value in enumerate(values):
        if isinstance(value, Tensor):
            continue
        if str(value) not in shape:
            raise UsageError(f"its input {placeholders[position].name!r} is no side of the image")
        sides[position] = shape.index(str(value))
    return sides


def _check(graph: fx.GraphModule, image: int) -> None:
    """Refuse a graph that differs from what the engine computes image by image."""
    placeholder = list(graph.graph.find_nodes(op="placeholder"))[image]
    batch = placeholder.meta["example_value"].shape[0]
    for node in graph.graph.nodes:
        if _argument(node, "training") or _argument(node, "use_input_stats"):
            raise UsageError("it is of a network in training mode: wanted .eval()")
        if node.args[:1] == (placeholder,) and _writes(node):
            raise UsageError("it writes into its image")
        if isinstance(batch, int) and batch > 1 and batch in _sizes(node):
            raise UsageError(
                f"its operation {node.name!r} is for {batch} images: wanted "
                "torch.compile(..., dynamic=True)"
            )


def _argument(node: fx.Node, name: str) -> Any:
    """Return an argument of a function of torch.nn.functional, its default included."""
    if getattr(node.target, "__module__", "") != functional.__name__:
        return None
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    bound.apply_defaults()
    return bound.arguments.get(name)


def _writes(node: fx.Node) -> bool:
    """Return whether an operation writes into its first argument."""
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    is_marked = name.endswith("_") and not name.endswith("__")
    return is_marked or node.target in IN_PLACE_OPERATORS or bool(node.kwargs.get("inplace"))


def _sizes(node: fx.Node) -> Iterator[int]:
    """Yield the whole numbers among the arguments of an operation that takes a shape."""
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if name in SHAPE_METHODS:
        for argument in node.args[1:] if node.op == "call_method" else node.args:
            yield from (x for x in _flat(argument) if isinstance(x, int))


def _flat(argument: Any) -> Sequence[Any]:
    return argument if isinstance(argument, list | tuple) else (argument,)
