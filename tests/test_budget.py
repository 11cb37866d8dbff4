"""A budget is always the fraction that is kept, however it is written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinlens.errors import UsageError
from thinlens.sparsity.budget import Budget

parts = st.fractions(min_value=Fraction(1, 1000), max_value=1, max_denominator=1000)


@given(parts)
def test_a_printed_budget_reads_the_same(part: Fraction) -> None:
    assert Budget.parse(str(Budget(part))) == Budget(part)


@given(st.integers(1, 100))
def test_percent_and_decimal_are_the_same_part(percent: int) -> None:
    assert (
        Budget.parse(f"{percent}%") == Budget.parse(percent / 100) == Budget(Fraction(percent, 100))
    )


@pytest.mark.parametrize("text", ["1/8", "0.125", "12.5%", " 12.5 % ", "2/16", "1.25e-1"])
def test_an_eighth(text: str) -> None:
    assert Budget.parse(text).kept == Fraction(1, 8)
    assert str(Budget.parse(text)) == "1/8"


@pytest.mark.parametrize("text", ["0", "-1/8", "1.01", "200%", "0%", "9/8"])
def test_a_part_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["", "half", "1/0", "1:8", "nan", "%", "1/8/2", "inf"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"wanted the fraction that is kept, such as 1/8"):
        Budget.parse(text)
