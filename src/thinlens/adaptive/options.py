"""Routing options: the trade-off of equation 8, or a budget in multiply-adds or milliseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from thinlens.adaptive.cost_model import UNITS
from thinlens.adaptive.rule import RULES
from thinlens.errors import UsageError, check_choice

MULTIPLIERS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class ImageBudget:
    """The most that one image may cost, estimator included; exactly one field is set."""

    macs: float | None = None
    """Multiply-adds."""
    fraction: float | None = None
    """Of the cost of the most expensive candidate on the whole image, without tiles."""
    ms: float | None = None
    """Milliseconds."""

    @classmethod
    def read(cls, text: str) -> ImageBudget:
        """Parse `6G`, `30%` or `40ms`; anything else is a `UsageError`.

        >>> ImageBudget.read("6G")
        ImageBudget(macs=6000000000.0, fraction=None, ms=None)
        """
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?|%|ms)", text.strip())
        if match is None or float(match[1]) == 0:
            raise UsageError(
                f"--image-budget {text!r}: wanted multiply-adds such as 6G, milliseconds such as "
                "40ms, or a fraction of the most expensive network's such as 30%"
            )
        value, unit = float(match[1]), match[2]
        if unit == "ms":
            return cls(ms=value)
        if unit == "%":
            return cls(fraction=value / 100)
        return cls(macs=value * MULTIPLIERS[unit])

    def resolve(self, most_expensive: float) -> float:
        """Return the budget in multiply-adds or milliseconds.

        `most_expensive` is the cost of the most expensive candidate on the whole image.
        """
        absolute = self.macs if self.ms is None else self.ms
        return absolute if absolute is not None else (self.fraction or 0) * most_expensive


@dataclass(frozen=True)
class RoutingOptions:
    """How candidates are selected: at a fixed beta, or within a budget for each image."""

    beta: float = 0.3
    """Weight of the cost in equation 8 of SLS: 0 selects the best candidate at any cost."""
    budget: ImageBudget | None = None
    """Replaces beta: beta, or the Lagrange multiplier, is solved for each image."""
    rule: str = "equation-8"
    """equation-8, or lagrange, which minimises the error of the image at a budget."""
    price: str = "macs"
    """Unit of a tile's cost: multiply-adds (macs), or milliseconds (ms)."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise UsageError(f"--beta {self.beta}: wanted a number of 0 or more")
        check_choice("--rule", self.rule, RULES)
        check_choice("--price", self.price, UNITS)
        if self.budget and self.budget.ms is not None and self.price != "ms":
            raise UsageError("--image-budget in milliseconds: wanted --price ms")
        if self.budget and self.budget.macs is not None and self.price != "macs":
            raise UsageError("--image-budget in multiply-adds: wanted --price macs")
        if self.rule == "lagrange" and self.budget is None:
            raise UsageError("--rule lagrange has no beta: wanted --image-budget")

    @classmethod
    def read(
        cls,
        beta: float | None = None,
        budget: str | None = None,
        rule: str | None = None,
        price: str | None = None,
    ) -> RoutingOptions:
        """Build options from values in which None means the default.

        The default price is the unit of the budget. Raises `UsageError` for beta with a budget.

        >>> RoutingOptions.read(budget="40ms").price
        'ms'
        """
        if beta is not None and budget is not None:
            raise UsageError("--beta and --image-budget: wanted one of them")
        image_budget = None if budget is None else ImageBudget.read(budget)
        if price is None and image_budget and image_budget.ms is not None:
            price = "ms"
        return cls(
            cls.beta if beta is None else beta,
            image_budget,
            cls.rule if rule is None else rule,
            cls.price if price is None else price,
        )
