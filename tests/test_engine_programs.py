"""Whatever a program is told, does it refuse, or stay within its memory? (`make sanitize` asks.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native_engine import CORE, KERNELS, built
from thinlens.engine.ops.conv import ConvParams, sparse_weights

pytestmark = built

TENSORS = 3


class Draws:
    """Draws arguments that mostly fit together, so that what is accepted really runs."""

    def __init__(self, data: st.DataObject, kernels: Any) -> None:
        self.draw = data.draw
        self.channels, self.height = self.draw(st.integers(1, 4)), self.draw(st.integers(1, 9))
        self.width = self.draw(st.integers(1, 40))
        self.columns = max(2, -(-self.width // kernels.lanes))
        self.columns += self.columns % 2

    def near(self, value: int) -> int:
        """The value, or now and then another."""
        return value if self.draw(st.integers(0, 15)) else self.draw(st.integers(-2, 50))

    def slice(self) -> Any:
        """A slice of some tensor."""
        tensor = self.draw(st.integers(0, TENSORS - 1))
        return CORE.Slice(self.near(tensor), self.near(0), self.near(self.channels))

    def kernel(self) -> ConvParams:
        side, stride = self.draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (5, 1), (3, 3)]))
        c_out = self.channels * self.draw(st.sampled_from([1, 1, 4]))
        groups = self.draw(st.sampled_from([1, self.channels]))
        weight = np.zeros((c_out, self.channels // groups, side, side), np.float32)
        living = self.draw(st.lists(st.integers(0, weight.size - 1), max_size=9))
        weight.reshape(-1)[living] = 1.0
        padding = (self.near(side // 2), self.near(side // 2))
        bias = np.ones(c_out, np.float32)
        return ConvParams(weight, bias, padding, stride, 1, groups=groups)

    def taps(self, side: int) -> Any:
        """One or two taps for each of the outputs of a side."""
        taps = self.draw(st.sampled_from([1, 1, 2]))
        count = max(0, self.near(side)) * taps
        indices = [self.near(self.draw(st.integers(-1, side - 1))) for _ in range(count)]
        weights = np.full(count, self.draw(st.sampled_from([1.0, 0.5])), np.float32)
        return CORE.Taps(np.array(indices, np.int32), weights, taps)

    def windows(self, side: int) -> Any:
        """A window for each of the outputs of a side."""
        begins = np.array([self.near(i) for i in range(max(0, self.near(side)))], np.int32)
        return CORE.Windows(begins, begins + np.int32(self.near(1)))

    def instruction(self) -> Any:
        """One that mostly reads what is there."""
        name, operands, constants = self.draw(
            st.sampled_from([("combine", 1, 4), ("combine", 2, 4), ("clamp", 1, 2), ("exp", 1, 0)])
        )
        return CORE.PointwiseInstruction(
            name,
            [self.near(self.draw(st.integers(-2, 1))) for _ in range(operands)],
            [self.near(self.draw(st.integers(0, 1))) for _ in range(self.near(constants))],
        )

    def placements(self) -> list[Any]:
        """Where resizes lie in larger ones: of none, or of one or two."""
        return [
            CORE.Placement(rows=self.axis(), columns=self.axis())
            for _ in range(self.draw(st.integers(0, 2)))
        ]

    def axis(self) -> Any:
        return CORE.AxisPlacement(*(self.near(self.draw(st.integers(0, 60))) for _ in range(4)))

    def array(self) -> np.ndarray:
        sizes = [max(0, self.near(n)) for n in (self.channels, self.height, self.width)]
        return np.ones((1, *sizes), np.float32)


def steps(program: Any, draws: Draws) -> dict[str, Callable[[], None]]:
    """The steps there are, with arguments that are drawn when one is added."""
    part, near = draws.slice, draws.near
    return {
        "pack": lambda: program.pack(part(), near(0)),
        "unpack": lambda: program.unpack(part()),
        "conv": lambda: program.conv(
            sparse_weights(CORE, draws.kernel()),
            part(),
            part(),
            residual=draws.draw(st.sampled_from([None, part()])),
            slope=0.0,
            shuffle=draws.draw(st.sampled_from([1, 1, 2])),
            channel_group=near(draws.draw(st.integers(0, 3))),
        ),
        "pointwise": lambda: program.pointwise(
            [part() for _ in range(near(draws.draw(st.integers(1, 3))))],
            part(),
            [draws.instruction() for _ in range(near(draws.draw(st.integers(1, 5))))],
            np.ones((max(0, near(draws.channels)), 2), np.float32),
        ),
        "reduce_channels": lambda: program.reduce_channels(
            part(), part(), "variance", near(draws.channels), near(0), near(1), near(0)
        ),
        "reduce_space": lambda: program.reduce_space(part(), part(), "maximum", near(1), near(0)),
        "channel_norm": lambda: program.channel_norm(
            part(), part(), [1.0] * near(draws.channels), [1.0] * near(draws.channels), 1e-6
        ),
        "max_pool": lambda: program.max_pool(
            part(), part(), draws.windows(draws.height), draws.windows(draws.width), near(1)
        ),
        "resample": lambda: program.resample(
            part(), part(), draws.taps(draws.height), draws.taps(draws.width), 0.5, near(1)
        ),
        "resize": lambda: program.resize(part(), part()),
    }


def accepted(act: Callable[[], object]) -> bool:
    try:
        act()
    except (ValueError, TypeError):
        return False
    return True


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=100)
@given(data=st.data())
def test_a_program_refuses_or_runs(name: str, data: st.DataObject) -> None:
    kernels = CORE.kernels(name)
    draws = Draws(data, kernels)
    near = draws.near
    sizes = (draws.channels, draws.height, draws.width, draws.columns, 2)
    floats = kernels.floats(CORE.Shape(*sizes))
    program = CORE.Program(kernels, TENSORS * floats)
    for index in range(TENSORS):
        shape = CORE.Shape(*map(near, sizes))
        accepted(lambda at=index * floats, shape=shape: program.tensor(near(at), shape))
    for kind in data.draw(st.lists(st.sampled_from(list(steps(program, draws))), max_size=6)):
        accepted(steps(program, draws)[kind])
    image, out, placements = draws.array(), draws.array(), draws.placements()
    if accepted(lambda: program.run(CORE.ThreadPool(2), image, out, placements)):
        assert len(program.seconds()) >= 1
