"""Parsers of flag values: sizes, patterns, widths, noise levels, arguments."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any

from thinlens.errors import UsageError


def size(text: str, flag: str = "--size") -> tuple[int, int]:
    """Parse WIDTHxHEIGHT and return (height, width)."""
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None:
        raise UsageError(f"{flag} {text!r}: wanted WIDTHxHEIGHT in pixels, such as 1280x720")
    return int(match[2]), int(match[1])


def pattern(text: str) -> tuple[int, int]:
    """Parse N:M and return (n, m)."""
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--pattern {text!r}: wanted N:M with 1 <= N <= M, such as 8:32")
    return int(match[1]), int(match[2])


def width(text: str) -> Fraction:
    """Parse the factor of a network's hidden widths, a fraction such as 3/8."""
    try:
        factor = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--width {text!r}: wanted a fraction such as 1/2, 3/8 or 1/4") from error
    if not 0 < factor <= 1:
        raise UsageError(f"--width {text!r}: wanted a fraction above 0 and up to 1")
    return factor


def sigmas(text: str) -> tuple[float, ...]:
    """Parse one noise level or several: 25 or 15,25,50; the task checks their range."""
    try:
        levels = tuple(float(level) for level in text.split(","))
    except ValueError as error:
        raise UsageError(f"--sigma {text!r}: wanted 25, or several levels: 15,25,50") from error
    if len(set(levels)) < len(levels):
        raise UsageError(f"--sigma {text}: wanted every level once")
    return levels


def json_arguments(flag: str, text: str | None) -> dict[str, Any] | None:
    """Parse keyword arguments, a JSON object such as '{"channels": 64}'; None where there are none.

    >>> json_arguments("--arguments", '{"channels": 64}')
    {'channels': 64}
    """
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UsageError(f"{flag} {text!r}: wanted a JSON object, such as '{{\"channels\": 64}}'")
    return values
