"""How is a thin network run fast? `compile` is the face; the C++ core is in `csrc/`."""

from __future__ import annotations

from thinlens.engine.compiled import Compiled, compile

__all__ = ["Compiled", "compile"]
