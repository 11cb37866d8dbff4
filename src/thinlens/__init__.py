"""Prune image-restoration networks to N:M sparsity or fewer channels, and run them fast on CPUs.

>>> import thinlens
>>> checkpoint = thinlens.load("rfdn-x4")
>>> pruned = thinlens.prune(checkpoint, budget="1/4", method="one-shot", size=(180, 320))
>>> print(f"{thinlens.cost(pruned, (180, 320)).budget:.0%}")
25%
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thinlens.errors import RunError, UsageError

if TYPE_CHECKING:
    from thinlens.api import (
        adapt,
        bench,
        compile,
        cost,
        evaluate,
        export,
        list_methods,
        list_models,
        load,
        prune,
        restore,
        save,
        train,
    )
    from thinlens.experiments.comparison import compare

__all__ = [
    "RunError",
    "UsageError",
    "adapt",
    "bench",
    "compare",
    "compile",
    "cost",
    "evaluate",
    "export",
    "list_methods",
    "list_models",
    "load",
    "prune",
    "restore",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public function at its first use, so that `import thinlens` stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'thinlens' has no attribute {name!r}")
    if name == "compare":  # a package above the API
        from thinlens.experiments.comparison import compare

        return compare
    from thinlens import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return __all__
