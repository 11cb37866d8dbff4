"""Layout of a checkpoint folder for model hubs: a README with a YAML card, and what may lie there.

Hubs read the card's licence, library name and pipeline tag, and show the text below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinlens.checkpoints.format import CONFIG_FILE, NEXT_FILE, TENSORS_FILE, Checkpoint, load
from thinlens.errors import UsageError
from thinlens.files import atomic_write

CARD_FILE = "README.md"

LIBRARY = "thinlens"
"""The card's library name."""

PIPELINE = "image-to-image"
"""The card's pipeline tag: all networks here map images to images."""

LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""An identifier of a licence as hubs write it: apache-2.0, bsd-3-clause, cc-by-4.0, other."""

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
"""Endings of files whose loading runs code."""

SHORTEST_TEXT = 80
"""Characters of text below a card: what the network does, on what it was measured."""


def hub_problems(folder: Path) -> list[str]:
    """Return one sentence for everything that a folder lacks before it is pushed to a hub.

    The checkpoint is loaded, so a damaged one is a problem too. Raises `UsageError` where the
    folder does not exist, or PyYAML (the extra `hub`) is not installed.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: wanted a checkpoint's")
    return [*_checkpoint_problems(folder), *_card_problems(folder), *_file_problems(folder)]


def write_card(folder: Path, licence: str) -> None:
    """Write a README.md with a card and the checkpoint's figures into `folder`, where is none."""
    if not LICENCE_NAME.fullmatch(licence):
        raise UsageError(f"licence {licence!r}: wanted an identifier, such as apache-2.0")
    path = folder / CARD_FILE
    if path.exists():
        raise UsageError(f"{path} exists: wanted a folder without one")
    with atomic_write(path) as file:
        file.write(_card(folder.resolve().name, licence, load(folder)).encode())


def read_card(path: Path) -> tuple[dict[str, Any], str]:
    """Return the YAML card at the top of a README, and the text below it.

    Raises `UsageError` where there is none or it is no YAML mapping.
    """
    try:
        import yaml
    except ImportError as error:
        raise UsageError("reading a card needs PyYAML: pip install 'thinlens[hub]'") from error
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text") from error
    parts = re.match(r"---\n(.*?)\n---\n(.*)", text, re.S)
    if parts is None:
        raise UsageError(f"{path} has no card: wanted YAML between two lines of --- at the top")
    try:
        card = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise UsageError(f"the card of {path} is no YAML: {error}") from error
    if not isinstance(card, dict):
        raise UsageError(f"the card of {path} is no mapping")
    return card, parts[2].strip()


def _checkpoint_problems(folder: Path) -> Iterator[str]:
    try:
        load(folder)
    except UsageError as problem:
        yield str(problem)


def _card_problems(folder: Path) -> Iterator[str]:
    path = folder / CARD_FILE
    if not path.is_file():
        yield f"{path} is missing: --licence NAME writes one"
        return
    try:
        card, text = read_card(path)
    except UsageError as problem:
        if "PyYAML" in str(problem):
            raise
        yield str(problem)
        return
    licence = card.get("license")
    if not isinstance(licence, str) or not LICENCE_NAME.fullmatch(licence):
        yield f"{path}: license is {licence!r}: wanted an identifier, such as apache-2.0"
    if licence == "other" and not (card.get("license_name") and card.get("license_link")):
        yield f"{path}: license is other: wanted license_name and license_link too"
    for key, value in (("library_name", LIBRARY), ("pipeline_tag", PIPELINE)):
        if card.get(key) != value:
            yield f"{path}: {key} is {card.get(key)!r}: wanted {value}"
    if len(text) < SHORTEST_TEXT:
        yield f"{path} has {len(text)} characters of text: wanted {SHORTEST_TEXT} or more"


def _file_problems(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.name == NEXT_FILE:
            yield f"{name} is from a save that was interrupted: load the checkpoint once and save"
        elif path.suffix in PICKLES:
            yield f"{name} is a pickle, whose loading runs code: remove it"
        elif path.is_symlink():
            yield f"{name} is a link: hubs store files"


def _card(name: str, licence: str, checkpoint: Checkpoint) -> str:
    """Return the text of a card, with figures that the checkpoint holds."""
    provenance = checkpoint.provenance
    figures = [f"- network: {checkpoint.model}", f"- {checkpoint!r}"]
    if provenance.get("method"):
        figures.append(f"- pruned by {provenance['method']}")
    return (
        f"---\nlicense: {licence}\nlibrary_name: {LIBRARY}\npipeline_tag: {PIPELINE}\n"
        f"tags:\n- image-restoration\n- sparsity\n---\n\n# {name}\n\n"
        + "\n".join(figures)
        + f'\n\n```python\nimport thinlens\n\nnetwork = thinlens.load("{name}")\n'
        "run = thinlens.compile(network)  # images [B, C, H, W] in [0, 1]\n```\n\n"
        f"The folder holds `{CONFIG_FILE}` and `{TENSORS_FILE}`.\n"
    )
