"""Descriptions of pruned networks in one line, and as a table for notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from thinlens.sparsity.pattern import Pattern

LISTED_PATTERNS = 3
"""N:M values that a line lists, the most frequent first."""


def describe_patterns(module: nn.Module, patterns: Mapping[str, Pattern]) -> str:
    """Return which layers have a pattern, their most frequent N:M, and how many weights they keep.

    >>> describe_patterns(nn.Conv2d(8, 8, 3), {})
    'no layer pruned, 584 parameters'
    """
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if not patterns:
        return f"no layer pruned, {parameters:,} parameters"
    kept = sum(pattern.kept for pattern in patterns.values())
    weights = sum(pattern.mask.numel() for pattern in patterns.values())
    counts = Counter(pattern_name(pattern) for pattern in patterns.values())
    common = [f"{name} in {count}" for name, count in counts.most_common(LISTED_PATTERNS)]
    rest = len(counts) - len(common)
    common += [f"{rest} more"] if rest > 0 else []
    return (
        f"{len(patterns)} layers pruned ({', '.join(common)}), {kept / weights:.1%} of their "
        f"weights kept; {parameters - weights + kept:,} of {parameters:,} parameters"
    )


def pattern_name(pattern: Pattern) -> str:
    """Return N:M, or what a pattern is that has none."""
    return "single weights" if pattern.n is None else f"{pattern.n}:{pattern.m}"


def patterns_html(title: str, sentence: str, patterns: Mapping[str, Pattern]) -> str:
    """Return a sentence and a folded table of the layers as HTML, for notebooks.

    >>> patterns_html("DnCNN", "a < b", {})
    '<p><strong>DnCNN</strong>: a &lt; b</p>'
    """
    intro = f"<p><strong>{escape(title)}</strong>: {escape(sentence)}</p>"
    if not patterns:
        return intro
    columns = ("layer", "shape", "N:M", "kept")
    lines = [_line(columns, "th"), *(_line(row, "td") for row in _rows(patterns))]
    summary = f"<summary>{len(patterns)} layers</summary>"
    return f"{intro}<details>{summary}<table>{''.join(lines)}</table></details>"


def _rows(patterns: Mapping[str, Pattern]) -> Iterator[Sequence[str]]:
    for name, pattern in patterns.items():
        shape = "x".join(map(str, pattern.mask.shape))
        yield name, shape, pattern_name(pattern), f"{pattern.kept / pattern.mask.numel():.1%}"


def _line(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
