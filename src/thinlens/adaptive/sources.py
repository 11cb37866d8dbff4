"""Candidates of a bundle by name, from folders, shipped names or loaded checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from thinlens.checkpoints.format import Checkpoint
from thinlens.checkpoints.pretrained import read_source
from thinlens.errors import UsageError


def load_candidates(
    sources: Sequence[str | Path | Checkpoint] | Mapping[str, Checkpoint],
) -> dict[str, Checkpoint]:
    """Return checkpoints by name: the last component of a folder, or a shipped name.

    Loaded checkpoints in a sequence are named by their network and place. Raises `UsageError`
    where two have one name.
    """
    if isinstance(sources, Mapping):
        return dict(sources)
    named: dict[str, Checkpoint] = {}
    for index, source in enumerate(sources):
        if isinstance(source, Checkpoint):
            named[f"{source.model}-{index}"] = source
        else:
            name = Path(source).resolve().name if Path(source).is_dir() else str(source)
            named[name] = read_source(source)
    if len(named) < len(sources):
        raise UsageError("two of the checkpoints have one name: wanted folders by other names")
    return named
