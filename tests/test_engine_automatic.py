"""`auto` selects the native engine for thin networks that it runs faster, else torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from native_engine import built
from thinlens.benchmark.cases import is_thin
from thinlens.engine import automatic
from thinlens.engine.automatic import ImageFunction, select_engine
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.selected_engine import SelectedEngine

pytestmark = built


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Notes of this test alone."""
    monkeypatch.setattr(automatic, "cache_folder", lambda: tmp_path)
    new_process()
    yield
    new_process()


def new_process() -> None:
    """Forget what is not on disk."""
    automatic._timings.cache_clear()
    automatic._measured_here.cache_clear()


def network(part: float) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 8, 3, padding=1).eval()
    with torch.no_grad():
        module.weight[torch.rand_like(module.weight) >= part] = 0
    return module


class Stopwatch:
    def __init__(self, *seconds: float) -> None:
        self.seconds, self.asked = list(seconds), 0

    def __call__(self, functions: Sequence[ImageFunction], image: Tensor) -> list[float]:
        self.asked += 1
        first, *others = functions
        for other in others:
            torch.testing.assert_close(first(image), other(image), rtol=1e-5, atol=1e-5)
        return self.seconds[: len(functions)]


def test_the_faster_is_taken_and_measured_once() -> None:
    module, watch = network(0.3), Stopwatch(2.0, 1.0)
    assert all(isinstance(select_engine(module, 3, watch), Compiled) for _ in range(3))
    assert watch.asked == 1
    other = network(0.6)
    assert select_engine(other, 3, Stopwatch(1.0, 0.95)) is other
    assert select_engine(other, 3, Stopwatch(2.0, 1.0)) is other  # remembered


def test_a_measurement_beside_other_programs_is_corrected_by_later_commands() -> None:
    """The least times count, and three measurements are enough."""
    module, watches = network(0.3), [Stopwatch(*x) for x in ((1.0, 3.0), (1.2, 0.4), (9.0, 9.0))]
    kinds = []
    for watch in watches:
        kinds.append([isinstance(select_engine(module, 3, watch), Compiled) for _ in range(2)])
        new_process()
    assert kinds == [[False] * 2, [True] * 2, [True] * 2]
    assert [watch.asked for watch in watches] == [1, 1, 0]  # 0.4 of 1.0 is clear


def test_an_unclear_result_is_final_after_three_measurements() -> None:
    module, watches = network(0.3), [Stopwatch(1.0, 0.95) for _ in range(5)]
    for watch in watches:
        assert select_engine(module, 3, watch) is module
        new_process()
    assert [watch.asked for watch in watches] == [1, 1, 1, 0, 0]


def test_a_dense_network_is_timed_too() -> None:
    dense = network(1.0)
    assert not is_thin(dense) and is_thin(network(0.3))
    assert isinstance(select_engine(dense, 3, Stopwatch(2.0, 1.0)), Compiled)


def test_what_the_engine_does_not_know_stays_in_torch() -> None:
    odd = nn.Sequential(nn.PixelUnshuffle(2), nn.Flatten(), nn.Softmax(1)).eval()
    assert select_engine(odd, 3, Stopwatch(2.0, 1.0)) is odd


def test_both_are_really_timed() -> None:
    module = network(0.3)
    seconds = automatic.least_seconds([module, lambda x: x], torch.rand(1, 3, 9, 9))
    assert all(0 < s < 10 for s in seconds)


def test_a_slow_network_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic, "ENOUGH_SECONDS", 0.0)
    calls: list[int] = []

    def run(image: Tensor) -> Tensor:
        calls.append(1)
        return image

    automatic.least_seconds([run, run], torch.rand(1, 3, 9, 9))
    assert len(calls) == 2 * (1 + 1)  # a warm-up and one round


class PartlyKnown(nn.Module):
    """A thin convolution, and an operation that no engine knows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(self.body(x), 3)[0]


def test_a_command_says_what_ran() -> None:
    image = torch.rand(1, 3, 9, 9)
    for engine, module, kind in (
        ("torch", network(0.3), "torch"),
        ("native", network(0.3), "native"),
        ("native", PartlyKnown().eval(), "mixed"),
    ):
        make = SelectedEngine(engine)
        assert make.used == ""
        make(module)(image)
        assert make.used == kind
    make(network(0.3))(image)
    assert make.used == "mixed, native"


def test_one_line_says_what_runs_and_why(caplog: pytest.LogCaptureFixture) -> None:
    automatic._say_once.cache_clear()
    for _ in range(2):
        assert isinstance(select_engine(PartlyKnown().eval(), 3, Stopwatch(2.0, 1.0)), Compiled)
    (line,) = caplog.messages
    assert "2.00 times as fast as torch; 1 of 1 layers" in line and "'sort'" in line


class TwoParts(nn.Module):
    """Much work, and after what only torch knows, little work for what it copies."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, 48, 3, padding=1))
        self.head = nn.Conv2d(48, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sort(self.body(x), 3)[0])


@pytest.mark.parametrize(
    ("seconds", "layers"), [((3.0, 1.0, 2.0), (3, 0)), ((3.0, 2.0, 1.0), (2, 1))]
)
def test_a_mixed_network_is_cut_where_it_was_fastest(
    seconds: tuple[float, ...], layers: tuple[int, int]
) -> None:
    """The head's 3 multiply-adds a value do not pay, if the other cut was measured to be faster."""
    module = TwoParts().eval()
    for _ in range(2):  # measured, then read from the cache
        engine = select_engine(module, 3, Stopwatch(*seconds, 5.0))
        assert isinstance(engine, Compiled)
        assert engine.plan(Size(3, 32, 32)).layer_counts == layers
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(engine(image), module(image), rtol=1e-5, atol=1e-5)
