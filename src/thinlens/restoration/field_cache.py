"""On-disk cache of measured receptive fields: they are measured once for each network.

Entries are keyed by the network's fingerprint and structure, by the sources of `models/`, and by
the kernels and the build of the engine that runs it: other weights or other code are another
network. Networks of other packages, whose code no fingerprint covers, are measured in every
process. The file is in `engine.timings.cache_folder()` and may be deleted at any time; a damaged
one counts as empty.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

import torch

import thinlens.models
from thinlens.engine.compiled import Compiled
from thinlens.engine.native import build
from thinlens.engine.timings import cache_folder
from thinlens.errors import RunError
from thinlens.files import read_cached_object, write_json
from thinlens.models import registry_name
from thinlens.models.fingerprint import FINGERPRINT_DIGITS, fingerprint
from thinlens.restoration.network import Network, device_of, dtype_of
from thinlens.restoration.receptive_field import ReceptiveField

log = logging.getLogger(__name__)

MAX_FIELDS = 512
"""Entries in the file; the oldest are dropped first."""

MAX_BYTES = 1 << 18
"""A larger file is no cache of ours and counts as empty."""

OUR_CODE = "thinlens."
"""Where the class of a network lies whose code `_sources` covers."""

FILE_NAME = "receptive-fields-1.json"


def cached_field(
    network: Network, channels: int, margin: int | None, measure: Callable[[], ReceptiveField]
) -> ReceptiveField:
    """Return the stored field of a network on images of `channels`, or measure and store it.

    `margin` is the chosen one, None where it is measured.

    >>> field = ReceptiveField(radius=1, effective_radius=1, grid=1, error=0.0)
    >>> cached_field(torch.nn.Conv2d(1, 1, 3, padding=1), 1, None, lambda: field) == field
    True
    """
    key = _key(network, channels, margin)
    if key is None:
        return measure()
    path = cache_folder() / FILE_NAME
    stored = _read(path).get(key)
    if stored is not None:
        return stored
    field = measure()
    entries = _read(path)  # also what other processes stored meanwhile
    entries.pop(key, None)
    entries[key] = field
    newest = list(entries.items())[-MAX_FIELDS:]
    try:
        write_json(path, {key: astuple(field) for key, field in newest})
    except RunError as error:
        log.debug("%s: measured again next time", error)
    return field


def _key(network: Network, channels: int, margin: int | None) -> str | None:
    """Describe all that a field depends on; None for a network of another package."""
    module = getattr(network, "module", network)
    if not registry_name(module) or not type(module).__module__.startswith(OUR_CODE):
        return None
    engine = network.description if isinstance(network, Compiled) else f"torch {torch.__version__}"
    place = f"{dtype_of(network)} {device_of(network)} {engine} {build()}"
    structure = hashlib.sha256(repr(module).encode()).hexdigest()[:FINGERPRINT_DIGITS]
    return f"{fingerprint(network)} {structure} {_sources()} {channels} {margin} {place}"


@cache
def _sources() -> str:
    """Hash the sources of our networks, on which a field depends beside the weights."""
    folder = Path(str(thinlens.models.__file__)).parent
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:FINGERPRINT_DIGITS]


def _read(path: Path) -> dict[str, ReceptiveField]:
    """Return the valid entries of the file."""
    content = read_cached_object(path, MAX_BYTES)
    fields = {key: _field(value) for key, value in content.items()}
    return {key: field for key, field in fields.items() if field is not None}


def _field(value: Any) -> ReceptiveField | None:
    """Return an entry's field, or None where a number is none of a field."""
    match value:
        case [int() | None as radius, int() as effective, int() as grid, float() as error, chosen]:
            lengths = [x for x in (radius, effective, chosen) if x is not None]
            if all(type(x) is int and x >= 0 for x in lengths) and grid >= 1 and error >= 0:
                return ReceptiveField(radius, effective, grid, error, chosen)
    return None
