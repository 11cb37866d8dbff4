"""Values of JSON files as dataclasses: every value is checked against the type of its field."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from thinlens.errors import UsageError, quoted

Stored = TypeVar("Stored")

NAMES = {
    type(None): "null",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a string",
    list: "an array",
    tuple: "an array",
    dict: "an object",
}
"""Types as JSON calls them."""


def from_stored(kind: type[Stored], content: object, where: str) -> Stored:
    """Build a dataclass from a JSON object; arrays become tuples where a field is one.

    A value of another type, an unknown key, and a missing one are a `UsageError` that names it
    and `where` it is.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Size:
    ...     width: int
    >>> from_stored(Size, {"width": "8"}, "the size")
    Traceback (most recent call last):
    thinlens.errors.UsageError: width of the size is '8': wanted a whole number
    """
    if not isinstance(content, Mapping):
        raise UsageError(f"{where} is {quoted(content)}: wanted an object")
    description: Any = kind
    hints, required = _fields(description)
    unknown, missing = set(content) - set(hints), required - set(content)
    for kinds, keys in (("has the unknown key", unknown), ("lacks", missing)):
        if keys:
            raise UsageError(f"{where} {kinds} {quoted(min(keys, key=str))}")
    return kind(
        **{key: checked_value(hints[key], x, f"{key} of {where}") for key, x in content.items()}
    )


def checked_value(hint: Any, value: Any, where: str) -> Any:
    """Return a value of a JSON file as what `hint` states; `UsageError` where it is none.

    >>> checked_value(tuple[int, ...], [1, 2], "sides")
    (1, 2)
    """
    kind = get_origin(hint) or hint
    if hint is Any:
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        return from_stored(kind, value, where)
    if kind in (Union, types.UnionType):
        return _one_of(get_args(hint), value, where)
    if kind is float:
        fits = type(value) in (int, float) and _is_finite(value)
    elif kind is tuple:
        fits = type(value) in (list, tuple)
    else:
        fits = type(value) is kind
    if not fits:
        raise UsageError(f"{where} is {quoted(value)}: wanted {NAMES.get(kind, 'another value')}")
    check = _CONTAINERS.get(kind)
    return check(get_args(hint), value, where) if check else value


def _one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    for choice in hints:
        try:
            return checked_value(choice, value, where)
        except UsageError:
            continue
    wanted = " or ".join(NAMES.get(get_origin(x) or x, "an object") for x in hints)
    raise UsageError(f"{where} is {quoted(value)}: wanted {wanted}")


def _list(hints: tuple[Any, ...], value: Any, where: str) -> list[Any]:
    return [checked_value(hints[0] if hints else Any, x, where) for x in value]


def _tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not hints or hints[-1] is Ellipsis:
        return tuple(_list(hints[:1], value, where))
    if len(hints) != len(value):
        raise UsageError(f"{where} is {quoted(value)}: wanted {len(hints)} values")
    return tuple(checked_value(h, x, where) for h, x in zip(hints, value, strict=True))


def _object(hints: tuple[Any, ...], value: Any, where: str) -> dict[str, Any]:
    inner = hints[1] if hints else Any
    return {key: checked_value(inner, x, f"{quoted(key)} of {where}") for key, x in value.items()}


_CONTAINERS: dict[Any, Callable[[tuple[Any, ...], Any, str], Any]] = {
    list: _list,
    tuple: _tuple,
    dict: _object,
}


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of a dataclass's fields, and those without a default."""
    hints = get_type_hints(kind)
    own = {f.name: hints[f.name] for f in fields(kind) if f.init}
    required = (
        f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
    )
    return own, frozenset(required)
