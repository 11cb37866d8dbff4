"""Shards of the images of a command, for several machines without a common disk or scheduler."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from thinlens.errors import UsageError
from thinlens.restoration.manifest import MANIFEST

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Shard:
    """One of several parts of the images, chosen by their names: the same ones every time."""

    number: int = 1
    """From 1 to `count`."""
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """Read `2/8`; None is the only shard.

        >>> Shard.parse("2/8")
        Shard(number=2, count=8)
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, count = (int(x) for x in match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f"--shard {text}: wanted 1/8, 2/8 and so on to 8/8")
        return cls(number, count)

    @property
    def manifest(self) -> str:
        """The name of its manifest, beside those of the other shards."""
        if self.count == 1:
            return MANIFEST
        return f"manifest-{self.number}-of-{self.count}.jsonl"

    def select(self, images: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return the images of this shard, by their names.

        >>> [sorted(Shard(n, 2).select({"a.png": 1, "b.png": 2, "c.png": 3})) for n in (1, 2)]
        [['a.png', 'b.png'], ['c.png']]
        """
        return {name: x for name, x in images.items() if self._number_of(name) == self.number}

    def _number_of(self, name: str) -> int:
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest[:8]) % self.count + 1
