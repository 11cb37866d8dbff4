"""Names and arguments of ATen operations, as a dispatch mode receives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


def bind_arguments(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """Return the name of an ATen operation, and all its arguments by name.

    The name is without namespace and overload; arguments that were omitted have their defaults.
    """
    name, defaults = _signature(operation)
    bound = {**defaults, **(kwargs or {})}
    bound.update(zip(bound, args, strict=False))
    return name, bound


@cache
def _signature(operation: Any) -> tuple[str, dict[str, Any]]:
    """Return an ATen operation's name and the defaults of its arguments, in order."""
    defaults = {argument.name: argument.default_value for argument in operation._schema.arguments}
    return operation.name().removeprefix("aten::").split(".")[0], defaults
