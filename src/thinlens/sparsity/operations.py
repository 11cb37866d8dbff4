"""What is a torch operation called, and what was it given, by name?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def called(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """Return the name of an operation seen by a `TorchDispatchMode`, and all its arguments.

    The name is without namespace and overload; arguments that were not given have their defaults.
    """
    given = kwargs or {}
    bound = {a.name: given.get(a.name, a.default_value) for a in operation._schema.arguments}
    bound.update(zip(bound, args, strict=False))
    return operation.name().removeprefix("aten::").split(".")[0], bound
