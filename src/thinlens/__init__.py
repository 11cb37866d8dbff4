"""thinlens makes image-restoration networks thin and proves that they still see.

import thinlens

checkpoint = thinlens.load("rfdn-x4")
thin = thinlens.prune(checkpoint.module, budget="1/4", data=pairs)
print(thinlens.cost(thin, (180, 320)).total.macs)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thinlens.errors import RunError, UsageError

if TYPE_CHECKING:
    from thinlens.api import compile, cost, evaluate, load, prune, restore, save

__all__ = [
    "RunError",
    "UsageError",
    "compile",
    "cost",
    "evaluate",
    "load",
    "prune",
    "restore",
    "save",
]


def __getattr__(name: str) -> Any:
    """Import the rooms when a function is first asked for, so that `--help` need not."""
    if name not in __all__:
        raise AttributeError(f"module 'thinlens' has no attribute {name!r}")
    from thinlens import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return __all__
