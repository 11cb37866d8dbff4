"""Checkpoints shipped with the package, and the folder of a checkpoint by name or path."""

from __future__ import annotations

from pathlib import Path

from thinlens.checkpoints.format import CONFIG_FILE
from thinlens.errors import UsageError

WEIGHTS = Path(__file__).parents[1] / "weights"
"""Folder of the shipped checkpoints, one subfolder each."""


def list_shipped() -> list[str]:
    """Return the names of the shipped checkpoints."""
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{CONFIG_FILE}"))


def resolve(name_or_folder: str | Path) -> Path:
    """Return the folder of a checkpoint: an existing folder, else a shipped one of that name."""
    folder = Path(name_or_folder)
    if (folder / CONFIG_FILE).is_file():
        return folder
    if str(name_or_folder) in list_shipped():
        return WEIGHTS / name_or_folder
    names = ", ".join(list_shipped()) or "none"
    problem = f"no {CONFIG_FILE} in it" if folder.is_dir() else "no such folder"
    raise UsageError(
        f"{name_or_folder} is not a checkpoint ({problem}): "
        f"wanted a checkpoint folder, a file of weights, or a shipped name ({names})"
    )
