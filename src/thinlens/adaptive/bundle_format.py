"""The folder format of bundles.

BUNDLE/candidates/FINGERPRINT and BUNDLE/estimator/FINGERPRINT are checkpoints. bundle.json names
them, by fingerprints of what is in them, and is written last: until then the bundle is the one it
was before, or none. Checkpoints that it no longer names are removed afterwards.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from thinlens.adaptive.bundle import USES, Bundle
from thinlens.adaptive.candidates import common_task
from thinlens.adaptive.estimator import ESTIMATOR_MODEL, EstimatorMetrics
from thinlens.adaptive.laplacian import LaplacianTable
from thinlens.checkpoints.format import SAVE_SECONDS, Checkpoint, save
from thinlens.checkpoints.format import load as load_checkpoint
from thinlens.errors import UsageError, quoted
from thinlens.file_locks import exclusive_folder
from thinlens.files import read_unchanged, write_json
from thinlens.images.tiles import Tiling
from thinlens.models.fingerprint import fingerprint
from thinlens.models.legacy_fingerprint import fingerprints
from thinlens.stored_values import from_stored
from thinlens.tasks.task import Task
from thinlens.temporary_files import sweep_leftovers

BUNDLE_FILE = "bundle.json"
BUNDLE_FORMAT = 1
"""The version of the folder's format. Every released one loads forever."""

MAX_BUNDLE_BYTES = 2 * 2**20
"""Largest bundle.json that is read, in bytes."""

CANDIDATES, ESTIMATORS = "candidates", "estimator"
"""The folders of a bundle."""


def is_bundle(path: str | Path) -> bool:
    """Return whether a path is the folder of a bundle."""
    return (Path(path) / BUNDLE_FILE).is_file()


def save_bundle(folder: Path, bundle: Bundle) -> int:
    """Write a bundle and return its bytes; the folder changes whole or not at all.

    Raises `RunError` while another process writes to it.
    """
    with exclusive_folder(folder, SAVE_SECONDS):
        return _save_bundle(folder, bundle)


def _save_bundle(folder: Path, bundle: Bundle) -> int:
    sweep_leftovers(folder)
    names = [_save(folder / CANDIDATES, c) for c in bundle.checkpoints.values()]
    first = next(iter(bundle.checkpoints.values()))
    provenance = {"candidates": names}
    checkpoint = Checkpoint(bundle.estimator, {}, {}, ESTIMATOR_MODEL, first.task, provenance, 0)
    estimator = _save(folder / ESTIMATORS, checkpoint)
    content = {
        "format": BUNDLE_FORMAT,
        "candidates": [
            {"name": name, "fingerprint": mark}
            for name, mark in zip(bundle.checkpoints, names, strict=True)
        ],
        "estimator": estimator,
        "use": bundle.use,
        "tiling": {**asdict(bundle.tiling), "exact": bundle.exact},
        "laplacian": asdict(bundle.laplacian),
        "judged": {use: asdict(metrics) for use, metrics in bundle.metrics.items()},
        "provenance": bundle.provenance,
    }
    write_json(folder / BUNDLE_FILE, content)
    _sweep(folder / CANDIDATES, names)
    _sweep(folder / ESTIMATORS, [estimator])
    return bundle_bytes(folder)


def bundle_bytes(folder: Path) -> int:
    """Return the bytes of a bundle's checkpoints."""
    return sum(path.stat().st_size for path in folder.glob("*/*/*") if path.is_file())


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle; a damaged, incomplete or inconsistent one is a `UsageError`.

    While another process saves, it is the bundle before that or after it.
    """
    return read_unchanged([folder / BUNDLE_FILE], lambda: _load_bundle(folder))


def _load_bundle(folder: Path) -> Bundle:
    path = folder / BUNDLE_FILE
    try:
        content = _content(path)
        checkpoints = {
            entry.name: _load(folder / CANDIDATES, entry.fingerprint, entry.name)
            for entry in content.candidates
        }
        task = common_task(checkpoints)
        estimator = _load(folder / ESTIMATORS, content.estimator, "the estimator")
        _check_estimator(estimator, [entry.fingerprint for entry in content.candidates], task)
        if content.use not in USES:
            raise UsageError(f"it uses {quoted(content.use)}: wanted {' or '.join(USES)}")
        if len(content.laplacian.values[0]) != len(checkpoints) + 1:
            raise UsageError("its table of the Laplacian is for another number of candidates")
        return Bundle(
            checkpoints,
            content.tiling.tiling(),
            content.tiling.exact,
            estimator.module,
            content.laplacian,
            content.use,
            content.metrics,
            content.provenance,
        )
    except (UsageError, OSError) as error:
        raise UsageError(f"{path} cannot be used: {error}") from error


def _save(parent: Path, checkpoint: Checkpoint) -> str:
    """Write a checkpoint to the folder that its fingerprint names."""
    name = fingerprint(checkpoint.module)
    save(
        parent / name,
        checkpoint.module,
        model=checkpoint.model,
        task=checkpoint.task,
        patterns=checkpoint.patterns,
        provenance=checkpoint.provenance,
    )
    return name


def _load(parent: Path, expected: object, name: object) -> Checkpoint:
    """Read a checkpoint and compare it with the fingerprint that it must have."""
    digits = "0123456789abcdef"
    if type(expected) is not str or not expected or set(expected) - set(digits):
        raise UsageError(f"the fingerprint {quoted(expected)} of {quoted(name)} is none")
    folder = parent / expected
    if not folder.is_dir():
        raise UsageError(f"{name} is missing: there is no folder {folder}")
    checkpoint = load_checkpoint(folder)
    identities = fingerprints(checkpoint.module)
    if expected not in identities:
        raise UsageError(f"{folder} holds another network than {name} was: {identities[0]}")
    return checkpoint


def _check_estimator(estimator: Checkpoint, candidates: list[str], task: Task) -> None:
    if estimator.model != ESTIMATOR_MODEL:
        raise UsageError(f"its estimator is a {quoted(estimator.model)}: wanted {ESTIMATOR_MODEL}")
    if estimator.provenance.get("candidates") != candidates:
        raise UsageError("its estimator was trained on other candidates: wanted adapt run again")
    config: Any = estimator.module.config
    if (config.candidates, config.channels) != (len(candidates) + 1, task.channels):
        raise UsageError("its estimator is for another number of candidates or colours")


@dataclass(frozen=True)
class _Entry:
    name: str
    fingerprint: str


@dataclass(frozen=True)
class _StoredTiling(Tiling):
    exact: bool = field(kw_only=True)

    def tiling(self) -> Tiling:
        return Tiling(**{part.name: getattr(self, part.name) for part in fields(Tiling)})


@dataclass(frozen=True)
class _Content:
    """The content of bundle.json."""

    format: int
    candidates: list[_Entry]
    estimator: str
    use: str
    tiling: _StoredTiling
    laplacian: LaplacianTable
    metrics: dict[str, EstimatorMetrics]
    provenance: dict[str, Any]


def _content(path: Path) -> _Content:
    if path.stat().st_size > MAX_BUNDLE_BYTES:
        raise UsageError(f"it is larger than {MAX_BUNDLE_BYTES} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError("it is not JSON") from error
    if type(content) is not dict:
        raise UsageError("it is not a JSON object")
    if content.get("format") != BUNDLE_FORMAT:
        raise UsageError(
            f"format {quoted(content.get('format'))} is unknown: wanted {BUNDLE_FORMAT}"
        )
    content["metrics"] = content.pop("judged", None)
    return from_stored(_Content, content, "the bundle")


def _sweep(parent: Path, keep: list[str]) -> None:
    """Remove the checkpoints of the previous bundle."""
    for folder in parent.iterdir():
        if folder.is_dir() and folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)
