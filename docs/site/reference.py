"""Markdown of the reference, generated from the parser, docstrings, schemas and dataclasses.

A page has a comment, `<!-- generated: command-line -->`; on the site the text is in its place.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any
from unittest import mock

import thinlens
from thinlens.adaptive.adapt import AdaptOptions
from thinlens.adaptive.options import RoutingOptions
from thinlens.checkpoints import format as folder_format
from thinlens.checkpoints import packing
from thinlens.checkpoints.config_file import CheckpointConfig, TensorEntry
from thinlens.checkpoints.format import Checkpoint
from thinlens.cli.main import VERBS, main
from thinlens.cli.method_flags import field_docs
from thinlens.cli.recipe_schema import SCHEMAS
from thinlens.experiments.plan import OLD_TABLES
from thinlens.restoration.folder import RestoreResult
from thinlens.restoration.options import RestoreOptions
from thinlens.sparsity.pattern import Pruned
from thinlens.training.settings import Settings

HELP_COLUMNS = 96
"""Width of the printed help."""

LONGEST_SIGNATURE = 88
"""Columns above which a signature has one parameter a line."""

CLASSES = (
    *(Checkpoint, Pruned, RestoreResult),
    *(Settings, RestoreOptions, RoutingOptions, AdaptOptions),
)
"""What public functions return, and the options that they take."""

MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")


def command_line() -> str:
    """Return a section for each command, with the help that it prints."""
    return "\n".join(f"## {verb}\n\n{_fenced(help_text(verb), 'text')}" for verb in VERBS)


def help_text(verb: str) -> str:
    """Return what `thinlens VERB --help` prints."""
    output = io.StringIO()
    columns = {"COLUMNS": str(HELP_COLUMNS), "NO_COLOR": "1"}
    with mock.patch.dict(os.environ, columns), contextlib.redirect_stdout(output):
        main([verb, "--help"])
    return output.getvalue().strip()


def python() -> str:
    """Return a section for each public function and class, from signatures and docstrings."""
    names = [name for name in thinlens.__all__ if not isinstance(getattr(thinlens, name), type)]
    errors = [name for name in thinlens.__all__ if name not in names]
    parts = ["## Functions", *(_function(name) for name in names), "## Errors"]
    parts += [f"### {name}\n\n{_prose(getattr(thinlens, name))}" for name in errors]
    parts += ["## Classes", *map(_class, CLASSES)]
    return "\n\n".join(parts)


def recipes() -> str:
    """Return a section for each kind of recipe, with the keys of its schema."""
    return "\n\n".join(_schema(kind, make()) for kind, make in SCHEMAS.items())


def checkpoint_format() -> str:
    """Return the description of a checkpoint's folder."""
    return "\n\n".join(
        [
            _prose(folder_format),
            "## config.json",
            _field_table(CheckpointConfig),
            "## An entry of `tensors`",
            _field_table(TensorEntry),
            "## model.safetensors",
            _prose(packing),
        ]
    )


GENERATED: dict[str, Callable[[], str]] = {
    "command-line": command_line,
    "python": python,
    "recipes": recipes,
    "checkpoint-format": checkpoint_format,
}
"""By the name in a page's comment."""


def with_generated(text: str) -> str:
    """Return a page's text with what its comments stand for."""
    return MARKER.sub(lambda marker: GENERATED[marker[1]](), text)


def _function(name: str) -> str:
    function = getattr(thinlens, name)
    return f"### {name}\n\n{_fenced(_signature(name, function), 'python')}\n{_prose(function)}"


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        parameters.append(_parameter(parameter))
    line = f"thinlens.{name}({', '.join(parameters)}) -> {signature.return_annotation}"
    if len(line) <= LONGEST_SIGNATURE:
        return line
    body = "".join(f"    {text},\n" for text in parameters)
    return f"thinlens.{name}(\n{body}) -> {signature.return_annotation}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}: {parameter.annotation}{default}"


def _prose(thing: Any) -> str:
    """Return a docstring as Markdown: paragraphs stay, examples become code."""
    blocks = (inspect.getdoc(thing) or "").split("\n\n")
    return "\n\n".join(_fenced(x, "pycon") if x.startswith(">>>") else x for x in blocks)


def _class(kind: type) -> str:
    name = f"`{kind.__module__}.{kind.__name__}`"
    return f"### {kind.__name__}\n\n{name}. {_prose(kind)}\n\n{_field_table(kind)}"


def _field_table(kind: type) -> str:
    docs = field_docs(kind)
    rows = (
        (f"`{x.name}`", f"`{x.type}`", _default(x.default, x.default_factory), docs.get(x.name, ""))
        for x in fields(kind)
    )
    return _table(("field", "type", "default", "meaning"), rows)


def _default(value: Any, factory: Any) -> str:
    if value is MISSING:
        return "" if factory is MISSING else "empty"
    return f"`{value!r}`"


def _schema(kind: str, schema: Mapping[str, Any]) -> str:
    properties = schema["properties"]
    tables = {name: entry for name, entry in properties.items() if entry.get("properties")}
    plain = {x: entry for x, entry in properties.items() if x not in (*tables, *OLD_TABLES)}
    parts = [f"## Recipes of {kind}", _keys(plain, schema.get("required", ()))]
    for name, entry in tables.items():
        parts += [
            f"### [{name}] of {kind}",
            entry.get("description", ""),
            _keys(entry["properties"]),
        ]
    return "\n\n".join(part for part in parts if part)


def _keys(properties: Mapping[str, Any], required: Iterable[str] = ()) -> str:
    rows = (
        (
            f"`{name}`",
            _value_type(entry),
            "required"
            if name in required
            else f"`{entry['default']}`"
            if "default" in entry
            else "",
            entry.get("description", ""),
        )
        for name, entry in properties.items()
    )
    return _table(("key", "value", "default", "meaning"), rows)


def _value_type(entry: Mapping[str, Any]) -> str:
    """Return the kind of a value in words: its choices, or the type of its elements."""
    if "enum" in entry:
        return ", ".join(f"`{choice}`" for choice in entry["enum"])
    if "items" in entry:
        return f"list of {entry['items']['type']}"
    return "table" if entry["type"] == "object" else str(entry["type"])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    rule = " | ".join("---" for _ in head)
    return "\n".join(f"| {line} |" for line in (" | ".join(head), rule, *lines))


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```\n"
