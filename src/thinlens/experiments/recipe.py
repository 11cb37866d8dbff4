"""How is a training recipe read, so that a misspelt key is an error and not a default?"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.models import network
from thinlens.training.settings import Settings

CROP_KEYS = ("patch", "batch_size", "candidates")
START_KEYS = {"checkpoint": str, "mean_of": list}


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says; a table that it leaves out has its defaults."""

    training: Settings = field(default_factory=Settings)
    crops: Mapping[str, int] = field(default_factory=dict)
    """Settings of `tasks.crops.Crops`."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task, such as `sigma`; the task checks them."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network's config, such as `width`."""
    start: Mapping[str, Any] = field(default_factory=dict)
    """`checkpoint`: the folder or shipped name whose weights training starts from; or `mean_of`: a
    list of such, from the mean of whose weights it starts."""

    @property
    def starts(self) -> list[str]:
        """The checkpoints from the mean of whose weights training starts; empty: from nothing."""
        return [str(x) for x in self.start.get("mean_of", [self.start.get("checkpoint")]) if x]


def read_recipe(path: Path | None) -> Recipe:
    """Read a recipe; None is the recipe of defaults. Unknown keys are a `UsageError`."""
    if path is None:
        return Recipe()
    content = read_toml(path)
    check_keys(path, "table", content, {f.name for f in fields(Recipe)})
    for name, table in content.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} must be a table, [{name}]")
    types = {f.name: type(f.default) for f in fields(Settings)}
    training = content.get("training", {})
    check_keys(path, "key of [training]", training, types)
    crops = content.get("crops", {})
    check_keys(path, "key of [crops]", crops, CROP_KEYS)
    start = content.get("start", {})
    check_keys(path, "key of [start]", start, START_KEYS)
    check_types(path, start, START_KEYS)
    if len(start) > 1:
        raise UsageError(f"{path}: [start] has checkpoint and mean_of: wanted one of them")
    check_types(path, training, types)
    check_types(path, crops, dict.fromkeys(CROP_KEYS, int))
    return Recipe(
        Settings(**training), crops, content.get("task", {}), content.get("network", {}), start
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe's tables; `UsageError` where that cannot be."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def check_keys(path: Path, what: str, given: Mapping[str, Any], known: Any) -> None:
    """Refuse the first key that is not among the known."""
    for key in given:
        if key not in known:
            raise UsageError(f"{path}: unknown {what} {key!r}: wanted {', '.join(sorted(known))}")


def check_types(path: Path, given: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Refuse the first value that is not of its key's type."""
    for key, value in given.items():
        wanted = (int, float) if types[key] is float else (types[key],)
        if type(value) not in wanted:
            raise UsageError(f"{path}: {key} = {value!r}: wanted {types[key].__name__}")


def check_options(path: Path, name: str, options: Mapping[str, Any]) -> None:
    """Refuse what the network called `name` cannot be: unknown options, and sizes of no sense."""
    entry = network(name)
    types = {f.name: type(getattr(entry.config, f.name)) for f in fields(entry.config)}
    check_types(path, {key: value for key, value in options.items() if key in types}, types)
    entry.configured(**options)
