"""Native engine: run sparse networks fast on CPUs.

`compile` is the entry; a module goes through trace, fuse, layout, stream, arena and plan to a
program of the C++ core in `csrc/`.
"""

from __future__ import annotations

from thinlens.engine.compilation import compile
from thinlens.engine.compiled import Compiled

__all__ = ["Compiled", "compile"]
