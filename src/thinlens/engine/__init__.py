"""Native engine: run sparse networks fast on CPUs.

`compile` is the entry; a module goes through trace, fuse, layout, stream, arena and plan to a
program of the C++ core in `csrc/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinlens.engine.compilation import compile
    from thinlens.engine.compiled import Compiled

__all__ = ["Compiled", "compile"]


def __getattr__(name: str) -> Any:
    """Import what needs torch at its first use: `thinlens --version` does not."""
    if name not in __all__:
        raise AttributeError(f"module 'thinlens.engine' has no attribute {name!r}")
    from thinlens.engine import compilation

    return getattr(compilation, name)
