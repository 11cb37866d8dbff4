"""Words in the names of files and folders that mark inputs and targets."""

from __future__ import annotations

import re

DEGRADED_NAME = re.compile(
    r"(^|[_\W])(lr|lq|low|lowres|degraded|noisy|lrbic(?:x\d)?|input|inputs|blur|blurry|blurred|hazy|haze"
    r"|rain|rainy)(?![a-z])",
    re.IGNORECASE,
)
CLEAN_NAME = re.compile(
    r"(^|[_\W])(hr|gt|hq|high|highres|clean|gtmod|target|targets|sharp|clear|norain|groundtruth"
    r"|ground_truth)(?![a-z])",
    re.IGNORECASE,
)
SCALE_MARK = re.compile(r"[_-]?x\d(?![a-z0-9])", re.IGNORECASE)
"""The mark of a reduced image: `0001x4`, `baby_x4`."""


def is_degraded_name(name: str) -> bool:
    """Return whether a name marks an input.

    >>> is_degraded_name("img_001_LR"), is_degraded_name("lrbicx4"), is_degraded_name("slr")
    (True, True, False)
    """
    return DEGRADED_NAME.search(name) is not None


def is_clean_name(name: str) -> bool:
    """Return whether a name marks a target.

    >>> is_clean_name("DIV2K_valid_HR"), is_clean_name("GTmod12"), is_clean_name("night")
    (True, True, False)
    """
    return CLEAN_NAME.search(name) is not None


def without_side(name: str) -> str:
    """Return a name without the words that mark a side and without a scale, in lower case.

    >>> without_side("img_001_SRF_4_LR") == without_side("img_001_SRF_4_HR")
    True
    >>> without_side("baby_x4"), without_side("0001x4")
    ('baby', '0001')
    """
    for words in (DEGRADED_NAME, CLEAN_NAME, SCALE_MARK):
        name = words.sub("", name)
    return name.lower()
