"""A share of training pairs may be hard: noise, saturated areas, extremes, drawings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.experiments.recipe import read_recipe
from thinlens.models import create
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops, crops_from_clean
from thinlens.tasks.hard_crops import HARD_KINDS, hard_pair
from thinlens.training.folder_data import folder_inputs

SR = make_task("sr", scale=4)


def clean(seed: int) -> Tensor:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 96, 80), dtype=np.uint8)
    return torch.from_numpy(noise)


def crops(hard: float, batch_size: int = 8) -> Crops:
    return crops_from_clean(SR, [clean(0), clean(1)], patch=9, batch_size=batch_size, hard=hard)


@given(st.integers(0, 2**31), st.integers(2, 4))
def test_hard_pairs_have_the_shapes_of_pairs_and_targets_that_are_images(
    seed: int, scale: int
) -> None:
    task, generator = make_task("sr", scale=scale), np.random.default_rng(seed)
    ordinary = torch.rand(3, 9, 7), torch.rand(3, 9 * scale, 7 * scale)
    for kind in (hard_pair, *HARD_KINDS):
        x, y = kind(*ordinary, task, generator)
        assert (x.shape, y.shape) == (ordinary[0].shape, ordinary[1].shape)
        assert x.dtype == y.dtype == torch.float32
        assert x.isfinite().all()
        assert torch.equal(y, y.clamp(0, 1))
        # the target is the input's: averages over the enlarged pixels do not wander off
        means = torch.nn.functional.avg_pool2d(y[None], scale)[0]
        assert (means.mean() - x.clamp(0, 1).mean()).abs() < 0.25


def test_the_share_of_hard_pairs_is_as_asked_and_no_share_changes_no_pair() -> None:
    grey = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    mixed = crops_from_clean(SR, [grey], patch=9, batch_size=400, hard=0.25).batch(0, 0, 0)[1]
    ordinary = (mixed == 128 / 255).flatten(1).all(1)
    assert float(ordinary.float().mean()) == pytest.approx(0.75, abs=0.06)
    plain = crops_from_clean(SR, [clean(0), clean(1)], patch=9).batch(3, 2, 1)
    assert all(map(torch.equal, crops(0.0).batch(3, 2, 1), plain))


def test_a_hard_batch_is_golden() -> None:
    """The recipe of rfdn-x4-free must stay reproducible: this pins the random stream."""
    image, target = crops(1.0).batch(1, 2, 3)
    assert float(image.double().sum()) == pytest.approx(1005.0380609557033, rel=1e-6)
    assert float(target.double().sum()) == pytest.approx(15612.20118514821, rel=1e-6)


def test_hard_pairs_are_refused_where_the_task_makes_no_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hard 2"):
        crops(2.0)
    with pytest.raises(UsageError, match="super-resolution"):
        crops_from_clean(make_task("denoise", channels=3), [clean(0)], patch=9, hard=0.1)
    with pytest.raises(UsageError, match="super-resolution"):
        Crops(SR, [clean(0)], [clean(0)], patch=9, degraded=True, hard=0.1)
    with pytest.raises(UsageError, match="inputs"):
        folder_inputs(tmp_path, None, create("rfdn", width=8, blocks=1), 3, {"hard": 0.1})


def test_a_recipe_may_ask_for_hard_pairs(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[crops]\npatch = 24\nhard = 0.125\n")
    assert read_recipe(recipe).crops == {"patch": 24, "hard": 0.125}
    recipe.write_text('[crops]\nhard = "some"\n')
    with pytest.raises(UsageError, match="wanted float"):
        read_recipe(recipe)
