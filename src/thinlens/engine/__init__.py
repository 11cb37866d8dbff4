"""Native engine: run sparse networks fast on CPUs.

`compile` is the entry; a module goes through trace, fuse, layout, stream, arena and plan to a
program of the C++ core in `csrc/`.
"""

from __future__ import annotations

from thinlens.engine.compiled import Compiled, compile

__all__ = ["Compiled", "compile"]
