"""The examples in docstrings: every public function has one, and all of them run."""

from __future__ import annotations

import doctest
import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thinlens

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL

PACKAGE = Path(thinlens.__file__).parent


def module_name(path: Path) -> str:
    parts = ("thinlens", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = [module_name(p) for p in sorted(PACKAGE.rglob("*.py")) if ">>> " in p.read_text()]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run examples in an empty folder that holds small images, with fixed seeds."""
    generator = np.random.default_rng(0)
    for folder, count in (("images", 1), ("photos", 3)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            pixels = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)
            image.save(tmp_path / folder / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0
    assert result.attempted > 0


def test_every_public_function_has_an_example() -> None:
    functions = [getattr(thinlens, name) for name in thinlens.__all__]
    for function in functions:
        if not isinstance(function, type):
            assert ">>> " in (function.__doc__ or ""), function.__name__
