"""Budgets: the fraction of a cost that is kept, or a time in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from thinlens.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """The fraction of a cost that is kept, in (0, 1].

    `str` writes it in lowest terms.

    >>> str(Budget.parse("12.5%")), float(Budget.parse("1/8").kept)
    ('1/8', 0.125)
    """

    kept: Fraction

    def __post_init__(self) -> None:
        if not 0 < self.kept <= 1:
            raise UsageError(
                f"budget {self.kept}: wanted the fraction that is kept, above 0 and at most 1"
            )

    def __str__(self) -> str:
        return str(self.kept)

    @classmethod
    def parse(cls, value: str | float | Fraction | Budget) -> Budget:
        """Read `1/8`, `0.125` or `12.5%`, as text or as a number, exactly as it is written."""
        if isinstance(value, Budget):
            return value
        text = str(value).strip()
        try:
            fraction = Fraction(text.removesuffix("%").rstrip())
        except (ValueError, ZeroDivisionError):
            raise UsageError(
                f"budget {text!r}: wanted the fraction that is kept, such as 1/8, 0.125 or 12.5%"
            ) from None
        return cls(fraction / 100 if text.endswith("%") else fraction)


def parse_milliseconds(value: str | float | Fraction | Budget) -> Fraction | None:
    """Read a budget that is a time, such as `40ms`; return None where it is a fraction.

    Raises `UsageError` for a time that is malformed or not above 0.

    >>> parse_milliseconds("40ms"), parse_milliseconds("1/8")
    (Fraction(40, 1), None)
    """
    text = str(value).strip()
    if not text.endswith("ms"):
        return None
    try:
        time = Fraction(text.removesuffix("ms").rstrip())
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"budget {text!r}: wanted milliseconds such as 40ms") from None
    if time <= 0:
        raise UsageError(f"budget {text!r}: wanted milliseconds above 0")
    return time
