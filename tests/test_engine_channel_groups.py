"""Operations over groups of channels, and concatenations with constants, run in the engine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from native_engine import built
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size

pytestmark = built

REDUCTIONS = {
    "sum": lambda x, keep: x.sum(1, keepdim=keep),
    "mean": lambda x, keep: x.mean(1, keepdim=keep),
    "amax": lambda x, keep: x.amax(1, keepdim=keep),
    "amin": lambda x, keep: x.amin(1, keepdim=keep),
}


class Fusion(nn.Module):
    """Branches weighted by a softmax over them, as SKFusion of dehazing networks does."""

    def __init__(self, groups: int, channels: int, reduction: str, *, keep: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.groups, self.channels, self.keep = groups, channels, keep
        self.reduce = REDUCTIONS[reduction]
        self.body = nn.Conv2d(3, groups * channels, 3, padding=1)
        self.scores = nn.Conv2d(channels, groups * channels, 1)
        self.tail = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        batch, _, rows, columns = y.shape
        branches = y.view(batch, self.groups, self.channels, rows, columns)
        pooled = branches.sum(1).mean((2, 3), keepdim=True)
        scores = 30 * self.scores(pooled).view(batch, self.groups, self.channels, 1, 1)
        mixed = self.reduce(branches * scores.softmax(1), self.keep)
        return self.tail(mixed.view(batch, self.channels, rows, columns))


@given(
    st.integers(2, 4),
    st.integers(1, 9),
    st.sampled_from(sorted(REDUCTIONS)),
    st.booleans(),
    st.integers(1, 2),
)
@settings(max_examples=30, deadline=None)
def test_groups_of_channels_are_the_engines(
    groups: int, channels: int, reduction: str, keep: bool, threads: int
) -> None:
    """Any number of groups and channels, against float64, without a part in torch."""
    module = Fusion(groups, channels, reduction, keep=keep).eval()
    image = torch.rand(1, 3, 7, 10)
    engine = Compiled(module, threads)
    assert not engine.plan(Size(3, 7, 10)).is_mixed
    with torch.no_grad():
        expected = module.double()(image.double()).float()
    torch.testing.assert_close(engine(image), expected, rtol=1e-5, atol=1e-5)


class Mapped(nn.Module):
    """A denoiser with a map of its noise level beside the image, as DRUNet and FFDNet read it."""

    def __init__(self, *, varies: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.varies, self.body = varies, nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, rows, columns = x.shape
        level = torch.tensor([0.1, -2.0]).view(1, 2, 1, 1).expand(1, 2, rows, columns)
        if self.varies:
            level = level * torch.arange(columns)
        return self.body(torch.cat([x, level.repeat(len(x), 1, 1, 1)], 1))


@pytest.mark.parametrize("varies", [False, True])
def test_a_map_of_a_noise_level_is_no_reason_for_torch(varies: bool) -> None:
    """What varies over the image is torch's, with the reason."""
    module, image = Mapped(varies=varies).eval(), torch.rand(1, 3, 9, 12)
    engine = Compiled(module, 1)
    plan = engine.plan(Size(3, 9, 12))
    assert plan.is_mixed == varies
    assert not varies or "varies over the image" in plan.first_reason
    with torch.no_grad():
        torch.testing.assert_close(engine(image), module(image), rtol=1e-5, atol=1e-5)
