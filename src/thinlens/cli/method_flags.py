"""Command-line flags from dataclasses: options of pruning methods, and training settings.

Every field is a flag: its docstring is the help, its type the parser. A flag that is not given is
absent from the parsed options, so that a preset's or a recipe's value holds.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache, reduce
from itertools import pairwise
from operator import or_
from typing import Annotated, Any, TypedDict, get_type_hints

import tyro

from thinlens.experiments.recipe import FINE_TUNING_RATE
from thinlens.methods import METHODS, Method
from thinlens.tasks.crops import Crops
from thinlens.training.settings import Settings

SHARED = ("steps", "seed", "m")
"""Fields whose flags all methods share."""

CROPS = ("patch", "batch_size", "candidates")
"""Fields of `Crops` that are training settings."""

Flags = dict[str, Any]
"""Annotated types by field name."""


def field_docs(kind: type) -> dict[str, str]:
    """Return the docstrings under the fields of a class and of its bases, as one line each.

    >>> field_docs(Crops)["patch"]
    'Side of a crop in input pixels.'
    """
    docs: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        docs |= _class_docs(owner)
    return docs


@cache
def _class_docs(owner: type) -> dict[str, str]:
    """Return the docstrings of a class's own fields; its source is read once."""
    docs: dict[str, str] = {}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    except (OSError, TypeError):  # made without a source file
        return docs
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for statement, following in pairwise(body):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[name] = " ".join(text.split())
    return docs


def flags(kind: type, names: Iterable[str], defaults: Mapping[str, Any] | None = None) -> Flags:
    """Return the flags of fields of a dataclass; `defaults` replace those of the fields in help."""
    hints, docs = get_type_hints(kind), field_docs(kind)
    by_name = {field.name: field for field in fields(kind)}
    defaults = defaults or {}
    return {
        name: _flag(hints[name], docs.get(name, ""), defaults.get(name, by_name[name].default))
        for name in names
    }


def method_flags(kind: type[Method]) -> Flags:
    """Return a method's flags: every option that is not among the shared flags."""
    preset = kind.PRESETS.get(kind.DEFAULT_PRESET or "", {})
    return flags(kind, _option_names(kind), preset)


def all_method_flags(methods: Mapping[str, type[Method]] = METHODS) -> Flags:
    """Return the flags of all methods together; help lists the methods that have the option."""
    owners: dict[str, list[type[Method]]] = {}
    for kind in methods.values():
        for name in _option_names(kind):
            if name not in SHARED:
                owners.setdefault(name, []).append(kind)
    merged: Flags = {}
    for name, kinds in owners.items():
        names = ", ".join(option_owners(name, methods))
        types = [get_type_hints(kind)[name] for kind in kinds]
        doc = field_docs(kinds[0]).get(name, "")
        merged[name] = _flag(reduce(or_, types), f"{doc} ({names})", MISSING)
    return merged


def option_owners(option: str, methods: Mapping[str, type[Method]] = METHODS) -> list[str]:
    """Return the names of the methods that have an option."""
    return [name for name, kind in methods.items() if option in _option_names(kind)]


def training_flags() -> Flags:
    """Return the flags of the training settings and of the crops, without the shared ones."""
    settings = [field.name for field in fields(Settings) if field.name not in SHARED]
    defaults = {"learning_rate": FINE_TUNING_RATE}
    return {**flags(Settings, settings, defaults), **flags(Crops, CROPS)}


def options_type(name: str, flags: Flags) -> Any:
    """Return a dictionary type that holds the flags which are given."""
    make: Callable[..., Any] = TypedDict  # type: ignore[assignment]
    return make(name, flags, total=False)


def _option_names(kind: type[Method]) -> list[str]:
    return [name for name in kind.option_names() if name not in kind.NOT_FLAGS]


def _flag(hint: Any, doc: str, default: Any) -> Any:
    shown = "" if default is MISSING else f"(default: {default})"
    argument = tyro.conf.arg(help=doc, help_behavior_hint=shown)
    if hint is bool:
        return Annotated[bool, argument, tyro.conf.FlagConversionOff]
    return Annotated[hint, argument]
