"""Trace of a forward pass: which tensors do not depend on the input, and what computed them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CONVOLUTIONS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.conv_transpose2d: (
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
    ),
    F.linear: ("input", "weight", "bias"),
}
"""The functions whose weight can be pruned, and the names of their arguments."""


def bound(
    func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the arguments of a function of `CONVOLUTIONS` by name.

    >>> bound(F.linear, (1,), {"weight": 2})
    {'input': 1, 'weight': 2}
    """
    return {**dict(zip(CONVOLUTIONS[func], args, strict=False)), **(kwargs or {})}


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from that does not depend on the input."""

    computed: bool
    """Whether this forward pass computed it."""
    of_parameters: bool
    """Whether it is a parameter or was computed from one."""
    modules: tuple[nn.Module, ...] = ()
    """The modules in which all of it was computed, outermost first."""


@dataclass(frozen=True)
class Convolution:
    """A call of a function of `CONVOLUTIONS` on a tensor that depends on the input."""

    modules: tuple[nn.Module, ...]
    """The modules that were running, outermost first."""
    constants: tuple[Origin, ...]
    """The origins of its weight and, if it has one, its bias, in this order."""

    @property
    def computes_weight(self) -> bool:
        """Whether this forward pass computed its weight from parameters."""
        weight = self.constants[0]
        return weight.computed and weight.of_parameters


def _is_depthwise(arguments: dict[str, Any]) -> bool:
    """Whether each output sees one input channel: no N of M weights can be kept, none is merged."""
    groups, weight = arguments.get("groups", 1), arguments.get("weight")
    return groups > 1 and isinstance(weight, Tensor) and weight.shape[1] == 1


class ConstantTrace(TorchFunctionMode):
    """Follow all tensors that do not depend on the input while the network runs inside the context.

    Two tensors of one storage are one: a view of a parameter is the parameter. `modules` is kept up
    to date by hooks of the caller.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.modules: list[nn.Module] = []
        self.convolutions: list[Convolution] = []
        self._origins: dict[int, Origin] = {}
        self._references: list[Tensor] = []  # so that no storage is used twice
        for part in network.modules():
            for value in tree_leaves([v for k, v in vars(part).items() if k != "_modules"]):
                if isinstance(value, Tensor):
                    self._note(value, Origin(False, isinstance(value, nn.Parameter)))

    def finish(self, module: nn.Module) -> None:
        """Note that `module` has returned."""
        while self.modules and self.modules.pop() is not module:
            pass

    def is_constant(self, tensor: Tensor) -> bool:
        """Return whether `tensor` does not depend on the input."""
        return storage(tensor) in self._origins

    def _note(self, tensor: Tensor, origin: Origin) -> None:
        known = self._origins.get(storage(tensor))
        if known is None or (origin.of_parameters and not known.of_parameters):
            self._origins[storage(tensor)] = origin
            self._references.append(tensor.detach())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        origins = [self._origins.get(storage(x)) for x in inputs]
        if func in CONVOLUTIONS:
            self._note_convolution(bound(func, args, kwargs))
        result = func(*args, **(kwargs or {}))
        results = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self._follow(func, inputs, origins, results)
        return result

    def _note_convolution(self, arguments: dict[str, Any]) -> None:
        if self.is_constant(arguments["input"]) or _is_depthwise(arguments):
            return
        values = [arguments.get("weight"), arguments.get("bias")]
        origins = [self._origins.get(storage(v)) for v in values if isinstance(v, Tensor)]
        constants = tuple(origin for origin in origins if origin is not None)
        if len(constants) == len(origins):
            self.convolutions.append(Convolution(tuple(self.modules), constants))

    def _follow(
        self,
        func: Callable[..., Any],
        inputs: list[Tensor],
        origins: list[Origin | None],
        results: list[Tensor],
    ) -> None:
        """Note what `results`, and the first input if `func` sets it, depend on."""
        constants = [origin for origin in origins if origin is not None]
        sets_first = _sets_first(func)
        if sets_first and inputs:
            results = [*results, inputs[0]]
        before = {storage(x) for x in inputs}
        if len(constants) < len(origins):  # it depends on the input
            for x in results:
                if storage(x) not in before or sets_first:
                    self._origins.pop(storage(x), None)
            return
        modules = tuple(self.modules)
        for origin in constants:
            if origin.computed:
                modules = common_prefix(modules, origin.modules)
        computed = Origin(True, any(origin.of_parameters for origin in constants), modules)
        for x in results:
            if sets_first and storage(x) in self._origins and not computed.of_parameters:
                continue  # zero_, fill_: a parameter keeps its origin
            if storage(x) not in before or sets_first:
                self._origins[storage(x)] = computed
                self._references.append(x.detach())


def storage(tensor: Tensor) -> int:
    """Return the number of the memory that `tensor` views."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # a tensor without storage
        return id(tensor)


def common_prefix(one: Sequence[nn.Module], other: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """Return the modules with which both begin."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a is not b:
            break
        length += 1
    return tuple(one[:length])


def _sets_first(func: Callable[..., Any]) -> bool:
    """Return whether `func` sets the values of its first argument: `add_`, `x[...] = y`."""
    name = getattr(func, "__name__", "")
    if name == "__set__":  # x.data = y, but not x.requires_grad = y
        return getattr(getattr(func, "__self__", None), "__name__", "") == "data"
    if name in ("requires_grad_", "detach_", "share_memory_"):
        return False
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
