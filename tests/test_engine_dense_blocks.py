"""Dense blocks: concatenations that are beginnings of longer ones share memory, without copies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from native_engine import built
from thinlens.engine import plan as plans
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.heuristic import Heuristic
from thinlens.models import create

pytestmark = built

COPIES = ("copy", "pointwise")
"""Steps that copy: `pointwise` ones do where a network runs by bands."""


class DenseBlock(nn.Module):
    """Every convolution reads all results before it, newest last or first; a residual around."""

    def __init__(self, widths: list[int], *, newest_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.newest_first = newest_first
        totals = [sum(widths[: i + 1]) for i in range(len(widths))]
        self.head = nn.Conv2d(3, widths[0], 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(total, width, 3, padding=1)
            for total, width in zip(totals, [*widths[1:], widths[0]], strict=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        results = [x]
        for conv in self.convs:
            order = results[::-1] if self.newest_first else results
            results.append(conv(torch.cat(order, 1)).relu())
        return 0.2 * results[-1] + x


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=5),
    st.booleans(),
    st.booleans(),
    st.integers(1, 2),
)
def test_dense_blocks_are_exact_and_copy_nothing(
    widths: list[int], newest_first: bool, banded: bool, threads: int
) -> None:
    """Whole or by bands, against float64."""
    module, image = DenseBlock(widths, newest_first=newest_first).eval(), torch.rand(1, 3, 21, 18)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "BAND_BYTES", 0 if banded else 1 << 40)
        engine = Compiled(module, threads)
        plan = engine.plan(Size(3, 21, 18))
        result = engine(image)
    assert sum(step in COPIES for step in plan.steps) <= 1  # the sum after the last activation
    with torch.no_grad():
        expected = module.double()(image.double()).float()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_residual_around_dense_blocks_copies_one_tensor(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By bands, RRDB's input waits for three dense blocks: it alone is copied out of the first."""
    network = create("rrdb", blocks=3, width=16, growth=8).eval()
    steps = {}
    for band_bytes in (0, 1 << 40):
        monkeypatch.setattr(plans, "BAND_BYTES", band_bytes)
        engine = Compiled(network, threads, kernel_selector=Heuristic())
        steps[band_bytes] = engine.plan(Size(3, 150, 30)).steps
    banded, whole = (sum(step in COPIES for step in listed) for listed in steps.values())
    assert whole == 3  # the sums around three dense blocks
    assert banded <= whole + 3
