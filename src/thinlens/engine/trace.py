"""Trace a module into a list of functional operations for an input of one size.

The module runs once on an image without values while a dispatch mode records every ATen operation
that depends on the image: control flow on sizes needs no special case. Writes in place become
functional operations (`functionalize`). Everything else has its real values and is computed as the
module runs: parameters, tensors kept as plain attributes, masks and tables made of them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from thinlens.engine.graph import Size
from thinlens.errors import UsageError
from thinlens.models.aten_arguments import bind_arguments
from thinlens.models.dispatch_mode import DispatchMode
from thinlens.models.result_shapes import result_without_values
from thinlens.models.tile_position import GlobalResize, record_resizes

META = torch.device("meta")
"""The device of tensors without values: those that depend on the image."""

FUNCTIONALIZATION = ("_enable_functionalization", "_disable_functionalization", "_sync")
"""Functions of torch, which have no types."""

MAKE_CONSTANTS = frozenset(
    {"zeros_like", "ones_like", "full_like", "empty_like"}
    | {"new_zeros", "new_ones", "new_full", "new_empty"}
)
"""Operations that take only the shape of a tensor: what they make is a constant."""

VIEWS_OF_PARAMETERS = frozenset(
    {"t", "transpose", "permute", "view", "_unsafe_view", "_to_copy", "clone", "detach", "alias"}
)
"""Operations on a parameter whose result belongs to the parameter's module, too."""

KEPT_WHOLE = frozenset({"upsample_nearest2d", "_upsample_nearest_exact2d"})
"""Compound operations that the engine computes better than their parts."""

READ_VALUES = frozenset({"_local_scalar_dense", "equal", "nonzero", "masked_select"})
"""Operations whose result, or its shape, depends on values."""


SCALARS = frozenset({int, float, bool, str, type(None)})
"""Types of arguments that hold no tensor."""

CONTAINERS = (dict, list, tuple, set)
"""Types of what a module stores that hold other values."""

ParameterArrays = dict[int, "NDArray[np.float32]"]
"""The values of parameters and buffers by the identity of the tensor: the same arrays for every
size, so that what depends on them alone is computed once."""


@dataclass(frozen=True, eq=False)
class Operation:
    """A functional ATen operation that depends on the image."""

    function: Any
    """The ATen operation."""
    args: tuple[Any, ...]
    """Tensors on the meta device depend on the image, others are constants."""
    kwargs: Mapping[str, Any]
    result: Any
    """A tensor, or a list or tuple of tensors."""
    name: str
    """Without namespace, overload and the mark of an operation in place."""
    arguments: Mapping[str, Any]
    """All arguments by name."""
    sources: list[Tensor]
    """The tensors that depend on the image among its arguments."""

    @cached_property
    def results(self) -> list[Tensor]:
        """The tensors that it computes."""
        result = self.result
        return [result] if isinstance(result, Tensor) else dependent_tensors(result)


@dataclass(frozen=True, eq=False)
class Trace:
    """A module's operations for an image of one size."""

    image: Tensor
    output: Tensor
    operations: list[Operation]
    """Those that the output needs, in the order in which they ran."""
    parameters: dict[int, str]
    """The names of parameters, and of what is a view of one, by the identity of the tensor."""
    global_resizes: dict[int, GlobalResize]
    """By the identity of the resized tensor."""
    arrays: ParameterArrays
    """Those of earlier traces of the module, to which lowering adds."""
    references: list[Any]
    """Tensors whose identity the trace uses."""


class Tracer:
    """Traces a module, which must not change, for one input size after the other.

    The module runs as a copy that shares its parameters and buffers: what it stores while it runs
    is dropped. A copy that stored nothing runs again.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._copy: nn.Module | None = None
        self._parts: list[nn.Module] = []
        """The modules in `_copy`."""
        self._stored: list[object] = []
        """What `_copy` holds, of which nothing changed."""
        self._arrays: ParameterArrays = {}
        self._tensors = [*module.named_parameters(), *module.named_buffers()]

    def trace(self, size: Size) -> Trace:
        """Return the operations of the module on one image of `size`.

        Raises `UsageError` where it does not return one tensor, or reads values of its input.
        """
        recorder = Recorder(self._tensors)
        module, before = self._copy, self._stored
        self._copy = None
        if module is None:
            _check_batch_norms(self._module)
            module = _sharing_copy(self._module)
            self._parts = list(module.modules())
            before = _stored(self._parts)
        with torch.inference_mode(False):  # a network may write into its image
            image = torch.empty(1, size.channels, size.height, size.width, device=META)
        # Inference mode would show the recorder compound operations.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            _disable_current_modes(),  # they would see, and replace, the tensors without values
            record_resizes(recorder.record_global_resize),
            recorder,
        ):
            output = _functionalized(module, image)
        after = _stored(self._parts)
        if len(before) == len(after) and all(map(operator.is_, before, after)):
            self._copy, self._stored = module, after
        if output.device != META:
            raise UsageError("the network's output does not depend on its input")
        return recorder.trace(output, self._arrays)


def _stored(parts: Iterable[nn.Module]) -> list[object]:
    """List what modules hold, in nested dictionaries, lists, tuples and sets."""
    stored: list[object] = []
    entered: set[int] = set()
    rest: list[Iterable[object]] = [vars(part).values() for part in parts]
    while rest:
        values = list(rest.pop())
        stored += values
        for value in values:
            if isinstance(value, CONTAINERS) and value and id(value) not in entered:
                entered.add(id(value))  # it may hold itself
                rest.append(value.values() if isinstance(value, dict) else value)
    return stored


def _check_batch_norms(module: nn.Module) -> None:
    """Refuse a batch norm whose results depend on the other images of a batch.

    The engine runs images one by one; traced with one image, it looks like an instance norm.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is None:
            raise UsageError(
                f"layer {name!r} normalizes by the statistics of each batch (it tracks none), and "
                "the engine runs images one by one"
            )


def _functionalized(module: nn.Module, image: Tensor) -> Tensor:
    """Call a module so that its writes in place are functional operations for the recorder.

    `torch.func.functionalize` would do the same, but refuses modules with an `autograd.Function`.
    """
    enable, disable, sync = map(partial(getattr, torch), FUNCTIONALIZATION)
    enable(reapply_views=True)
    try:
        functional = torch._to_functional_tensor(image)
        torch.ops.aten.alias(functional)  # shows the recorder the tensor behind `image`
        output = module(functional)
        if not isinstance(output, Tensor):
            raise UsageError("the engine runs modules that return one tensor")
        if not torch._is_functional_tensor(output):
            return output
        sync(output)
        return torch._from_functional_tensor(output)
    finally:
        disable()


@cache
def _is_compound(function: Any) -> bool:
    """Whether an ATen operation, such as `pad`, is recorded as those that it is made of."""
    name = function.name().removeprefix("aten::").split(".")[0]
    return bool(function._can_decompose()) and name not in KEPT_WHOLE


def dependent_tensors(tree: Any) -> list[Tensor]:
    """List the tensors that depend on the image, in nested lists, tuples and dictionaries."""
    tensors: list[Tensor] = []
    _collect_dependent(tree, tensors)
    return tensors


def _collect_dependent(value: Any, tensors: list[Tensor]) -> None:
    if type(value) in SCALARS:  # most arguments
        return
    if isinstance(value, Tensor):
        if value.is_meta:
            tensors.append(value)
    elif isinstance(value, list | tuple):
        if type(value) is list and value and type(value[0]) is int:  # a list of sizes
            return
        for inner in value:
            _collect_dependent(inner, tensors)
    elif isinstance(value, dict):
        for inner in value.values():
            _collect_dependent(inner, tensors)


class Recorder(DispatchMode):
    """Record the operations on the image, and compute those on constants."""

    def __init__(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """Record a module with these parameters and buffers, by name."""
        super().__init__()
        self._operations: list[Operation] = []
        self._parameters = {id(tensor): name for name, tensor in tensors}
        self._global_resizes: dict[int, GlobalResize] = {}
        self._references: list[Any] = [tensor for _, tensor in tensors]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if _is_compound(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        name, arguments = bind_arguments(func, args, kwargs)
        call = _Call(func, args, kwargs or {})
        sources = dependent_tensors((args, kwargs))
        if name in MAKE_CONSTANTS or not sources:
            return self._constant(name, call)
        if name in READ_VALUES:
            raise UsageError(f"the network reads values of its input ({name!r})")
        result = result_without_values(name.rstrip("_"), arguments)
        if result is None:
            result = call.on(_without_values, META)
        self._references += [args, kwargs, result]
        self._operations.append(
            Operation(
                func,
                args,
                call.kwargs,
                result,
                name.rstrip("_"),
                arguments,
                sources,
            )
        )
        return result

    def _constant(self, name: str, call: _Call) -> Any:
        """Compute what does not depend on the image."""
        result = call.on(_stand_in, torch.device("cpu"))
        if name in VIEWS_OF_PARAMETERS and id(call.args[0]) in self._parameters:
            self._parameters[id(result)] = self._parameters[id(call.args[0])]
            self._references.append(result)
        return result

    def record_global_resize(self, mapping: GlobalResize, resized: Tensor) -> None:
        """Note that the last resize depends on the input's position in a larger image."""
        for operation in reversed(self._operations):
            if operation.name.startswith("upsample"):
                self._global_resizes[id(operation.result)] = mapping
                return

    def trace(self, output: Tensor, arrays: ParameterArrays) -> Trace:
        """Return what was recorded, without what the output does not need."""
        (image,) = self._operations[0].sources
        needed, operations = {id(output)}, []
        for operation in reversed(self._operations):
            if any(id(result) in needed for result in operation.results):
                operations.append(operation)
                needed.update(id(source) for source in operation.sources)
        return Trace(
            image,
            output,
            operations[::-1],
            self._parameters,
            self._global_resizes,
            arrays,
            [*self._references, output],
        )


@dataclass(frozen=True)
class _Call:
    """An operation with its arguments."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def on(self, replace: Any, device: torch.device) -> Any:
        """Run it with tensors replaced, and with what it makes on a device."""
        args, kwargs = tree_map(replace, (self.args, self.kwargs))
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": device}
        return self.function(*args, **kwargs)


def _without_values(value: Any) -> Any:
    """Return a tensor on the meta device in place of a constant."""
    if not isinstance(value, Tensor) or value.device == META:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=META)


def _stand_in(value: Any) -> Any:
    """Return a tensor of the same shape in place of one that depends on the image."""
    if not isinstance(value, Tensor) or value.device != META:
        return value
    return torch.empty((), dtype=value.dtype).expand(value.shape)


def _sharing_copy(module: nn.Module) -> nn.Module:
    """Copy a module but no parameters and buffers; what it stores while it runs is dropped."""
    shared = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
