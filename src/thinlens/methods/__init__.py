"""How are the weights that live chosen? One file a method; the table names them."""

from __future__ import annotations

from thinlens.methods.least_squares import LeastSquares
from thinlens.methods.method import Method, Pruned
from thinlens.methods.one_shot import OneShot

METHODS: dict[str, type[OneShot | LeastSquares]] = {
    "one-shot": OneShot,
    "least-squares": LeastSquares,
}
"""The methods by the name that `--method` takes."""

__all__ = ["METHODS", "Method", "Pruned"]
