"""Comparisons of pruning methods from recipes, and the demo.

`compare` runs a recipe of recipes/ and returns its rows; `demo` compares and prunes
shipped networks and writes a report.
"""

from __future__ import annotations

from thinlens.experiments.comparison import ComparisonResult, compare
from thinlens.experiments.demonstration import DemoResult, demo

__all__ = ["ComparisonResult", "DemoResult", "compare", "demo"]
