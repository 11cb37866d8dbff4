"""Streaming by row blocks gives the same bits in less memory."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from native_engine import BF16, CORE, KERNELS, built
from test_engine import NETWORKS, Odd, tiny
from thinlens.engine import stream
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.kernel_choice import DENSE
from thinlens.engine.ops.conv import ConvParams, sparse_weights
from thinlens.models import MODELS

pytestmark = built


@pytest.mark.parametrize("kernels", [*KERNELS[-1:], *BF16])
@pytest.mark.parametrize("name", [*NETWORKS, "odd"])
def test_streaming_changes_no_bit(name: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Odd().eval() if name == "odd" else tiny(name)
    channels = 2 if name == "odd" else MODELS[name].channels
    images = [torch.rand(1, channels, *size) for size in ((4, 3), (19, 37), (46, 30))]
    monkeypatch.setattr(stream, "CACHE_BYTES", 0)
    whole = Compiled(module, 1, kernels)
    expected = [whole(image) for image in images]
    monkeypatch.undo()
    for rows, threads in ((1, 2), (2, 1), (2, 3), (5, 2)):
        monkeypatch.setattr(stream, "MIN_BLOCK_ROWS", rows)
        fast = Compiled(module, threads, kernels)
        for image, output in zip(images, expected, strict=True):
            assert torch.equal(fast(image), output)


def test_what_only_a_group_uses_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    size = Size(3, 120, 40)
    streamed = Compiled(tiny("edsr"), 1).plan(size).bytes
    monkeypatch.setattr(stream, "CACHE_BYTES", 0)
    assert streamed < 0.6 * Compiled(tiny("edsr"), 1).plan(size).bytes


def test_seconds_are_those_of_the_last_run() -> None:
    engine = Compiled(tiny("edsr"), 1)
    image = torch.rand(1, 3, 60, 50)
    plan = engine.plan(Size(3, 60, 50))
    sums = []
    for _ in range(30):
        engine(image)
        sums.append(sum(plan.program.seconds()))
    assert sums[-1] < 15 * min(sums)  # adding up, it would be 30 times


ROWS, HALO = 12, 1


def two_steps(
    rows: int, strips: list[list[list[int]]] | None, copies: int = 1, wrap: int = 0
) -> Any:
    """Two convolutions of 3x3, the tensor between them a line buffer of `rows` rows."""
    kernels = CORE.kernels("baseline")
    ones = np.ones((2, 2, 3, 3), np.float32)
    weights = sparse_weights(CORE, ConvParams(ones, np.zeros(2, np.float32), 1, 1, 1))
    shape = CORE.Shape(channels=2, height=ROWS, width=16, row_vectors=4, halo=HALO)
    line_buffers = [CORE.LineBuffer(), CORE.LineBuffer(rows, copies, wrap), CORE.LineBuffer()]
    floats = [kernels.floats(shape, one) for one in line_buffers]
    program = CORE.Program(kernels, sum(floats))
    starts = np.cumsum([0, *floats]).tolist()
    tensors = [
        program.tensor(start, shape, one) for start, one in zip(starts, line_buffers, strict=False)
    ]
    first, middle, last = (CORE.Slice(t, 0, 2) for t in tensors)
    program.pack(first)
    program.conv(weights, first, middle, channel_group=DENSE)
    program.conv(weights, middle, last, channel_group=DENSE)
    if strips is not None:
        program.stream(1, strips)
    program.unpack(last)
    return program


def ran(program: Any, threads: int = 1) -> np.ndarray:
    image = np.random.default_rng(0).random((1, 2, ROWS, 16), np.float32)
    output = np.full_like(image, np.nan)
    program.run(CORE.ThreadPool(threads), image, output)
    return output


@given(st.lists(st.integers(0, ROWS), max_size=5), st.integers(1, ROWS))
def test_any_row_blocks_that_are_accepted_give_the_same_bits(ends: list[int], ahead: int) -> None:
    seconds = [*sorted(ends), ROWS]
    both = [[0, 0], *([min(ROWS, end + ahead), end] for end in seconds)]
    both[-1] = [ROWS, ROWS]
    assert np.array_equal(ran(two_steps(ROWS + 2 * HALO, [both])), ran(two_steps(0, None)))


@given(st.sets(st.integers(1, ROWS - 1), max_size=4), st.integers(1, 3), st.integers(1, 3))
def test_any_strips_give_the_same_bits(cuts: set[int], ahead: int, threads: int) -> None:
    edges = [0, *sorted(cuts), ROWS]
    strips = [
        [[max(0, begin - ahead), begin], [min(ROWS, end + ahead), end]]
        for begin, end in pairwise(edges)
    ]
    program = two_steps(ROWS + 2 * HALO, strips, len(strips))
    assert np.array_equal(ran(program, threads), ran(two_steps(0, None)))


def described(rows: int, reads: int = 1) -> Any:
    """Two convolutions of 3x3, the last one into the output, for the search of groups."""
    first = CORE.StreamNode(rows, 1, 1, 0, streams=True, is_step=True, reads=[])
    read = CORE.StreamRead(0, 0, 1, above=reads, below=reads)
    last = CORE.StreamNode(rows, 1, 1, 1, streams=True, is_step=True, reads=[read])
    buffers = [CORE.StreamBuffer(rows, HALO, 4), CORE.StreamBuffer(rows, 0, 4, is_output=True)]
    return CORE.StreamPlan([first, last], buffers)


@given(st.integers(1, ROWS), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
def test_groups_run_and_have_no_row_to_spare(
    block: int, strip: int, threads: int, most: int
) -> None:
    limits = CORE.StreamLimits(1 << 20, block, strip, most)
    groups = described(ROWS).groups(limits, threads)
    for group in groups:
        assert (group.first, group.count) == (0, 2)
        ((buffer, rows),) = group.line_buffers
        assert buffer == 0
        copies = len(group.strips)
        assert np.array_equal(ran(two_steps(rows, group.strips, copies)), ran(two_steps(0, None)))
        with pytest.raises(ValueError, match="no room"):
            two_steps(rows - 1, group.strips, copies)
    blocks = min(most, ROWS // max(1, min(threads, ROWS // strip)) // block)
    assert bool(groups) == (blocks > 1)


def test_a_group_is_as_long_as_its_line_buffers_fit() -> None:
    plan = described(ROWS)
    (group,) = plan.groups(CORE.StreamLimits(1 << 20, 3, 3, 256), 1)
    needed = group.line_buffers[0][1] * 4
    assert plan.groups(CORE.StreamLimits(needed, 3, 3, 256), 1)
    assert not plan.groups(CORE.StreamLimits(needed - 1, 3, 3, 256), 1)


def test_wrong_descriptions_are_refused() -> None:
    node = partial(CORE.StreamNode, upscale=1, row_step=1, streams=True, is_step=True)
    buffers = [CORE.StreamBuffer(4, 0)]
    with pytest.raises(ValueError, match="rows are 1 to"):
        CORE.StreamPlan([node(rows=0, buffer=0, reads=[])], buffers)
    with pytest.raises(ValueError, match="buffers are 0 to 0, not 1"):
        CORE.StreamPlan([node(rows=4, buffer=1, reads=[])], buffers)
    with pytest.raises(ValueError, match="nodes that another one reads"):
        CORE.StreamPlan([node(rows=4, buffer=0, reads=[CORE.StreamRead(0, 0)])], buffers)
    with pytest.raises(ValueError, match="a row for every node"):
        CORE.StreamPlan([node(rows=4, buffer=0, reads=[])], buffers).buffer_rows([[0, 0]])


START = [0, 0]


@pytest.mark.parametrize(
    ("rows", "strips", "sentence"),
    [
        (0, [[START, [6, 6], [12, 12]]], "not computed yet"),
        (0, [[START, [7, 6], [6, 6], [12, 12]]], "rise"),
        (0, [[START, [7, 6]]], "last row"),
        (0, [[START, [13, 12]]], "rise"),
        (0, [[[-1, 0], [12, 12]]], "rise"),
        (0, [[START, [12]]], "an end for each of 2 steps"),
        (0, [], "of its own"),
        (0, [[START]], "of its own"),
        (7, [[START, [7, 6], [12, 12]]], "it needs 8 rows of 7"),
        (0, [[START, [7, 6]], [[5, 6], [12, 12]]], "begins where another does not end"),
        (14, [[START, [7, 6]], [[5, 7], [12, 12]]], "begins where another does not end"),
        (14, [[START, [7, 6]], [[6, 6], [12, 12]]], "not computed yet"),
        (14, [[START, [7, 6]], [[5, 6], [12, 12]]], "copy each"),
    ],
)
def test_wrong_strips_are_refused(rows: int, strips: list[list[list[int]]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        two_steps(rows, strips)


def test_a_line_buffer_is_refused_outside_its_group() -> None:
    with pytest.raises(ValueError, match="outside its fused steps"):
        ran(two_steps(9, None))
