"""Convolutions of 16-bit integers: their error bound, no overflow, saturated inputs counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native_engine import BF16, CORE, KERNELS, built
from test_engine_kernels import nm_weight, reference, run_one
from thinlens.engine.ops.conv import ConvParams, sparse_weights

pytestmark = built

MOST_WORD = 2**15 - 1
MOST_SUM = 2**31 - 1
FULL_INPUT_WEIGHTS = 144
HALF = 0.5 + 2.0**-8
"""Rounding to an integer, and that of the product with the scale before it."""

DENSE, SPARSE, GROUPED = 0, 64, 3
"""Channel groups."""


def error_bound(params: ConvParams, input_range: float, **options: Any) -> np.ndarray:
    """By output channel, of inputs within the range: each weight and each input is rounded once.

    The integers are those of csrc/int16_weights.cpp.
    """
    sizes = np.abs(params.weight.astype(np.float64)).reshape(len(params.weight), -1)
    count, sums = (sizes > 0).sum(1), sizes.sum(1)
    largest = min(MOST_WORD, round(MOST_WORD * (FULL_INPUT_WEIGHTS / max(1, count.max())) ** 0.5))
    room = MOST_SUM // largest - count / 2 - 1
    with np.errstate(divide="ignore"):
        factor = np.minimum(room / sums, MOST_WORD / sizes.max(1))
    error = HALF * sums * input_range / largest + HALF * count * input_range / factor
    floats = 2.0**-21 * (sums * input_range + np.abs(params.bias))
    steepest = max(1.0, float(np.abs(options.get("slope", 1.0)).max()))
    terms = 2 if options.get("residual") else 1
    by_channel = terms * steepest * (error + floats)
    shuffle = options.get("shuffle", 1) ** 2
    return by_channel.reshape(-1, shuffle).max(1)[:, None, None]


def check(name: str, params: ConvParams, image: np.ndarray, group: int, **options: Any) -> None:
    input_range = float(np.abs(image).max()) * 1.25
    counts: list[int] = []
    got = run_one(
        name, params, image, group=group, input_range=input_range, saturated=counts, **options
    )
    difference = np.abs(got - reference(params, image, **options))
    assert (difference <= error_bound(params, input_range, **options)).all()
    assert counts == [0]


@pytest.mark.parametrize("group", [DENSE, SPARSE, GROUPED])
@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=25)
@given(data=st.data())
def test_errors_are_within_the_bound(name: str, group: int, data: st.DataObject) -> None:
    kernel, stride, dilation = (
        data.draw(st.sampled_from(x)) for x in ([1, 2, 3, 5], [1, 2, 3], [1, 2])
    )
    padding = data.draw(st.integers(0, dilation * (kernel - 1) // 2))
    least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    height, width = data.draw(st.integers(least, 30)), data.draw(st.integers(least, 70))
    c_in, shuffle = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1, 2]))
    c_out = data.draw(st.integers(1, 5)) * shuffle**2
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    weight = nm_weight(rng, (c_out, c_in, kernel, kernel), data.draw(st.integers(0, 7)), 7)
    params = ConvParams(
        weight, rng.standard_normal(c_out).astype(np.float32), padding, stride, dilation
    )
    image = rng.standard_normal((1, c_in, height, width)).astype(np.float32)
    slope = data.draw(st.sampled_from([1.0, 0.0, 0.1, np.linspace(-0.5, 1.5, c_out).tolist()]))
    residual = (shuffle == 1 and data.draw(st.booleans())) or None
    check(name, params, image, group, shuffle=shuffle, slope=slope, residual=residual)


@pytest.mark.parametrize("group", [DENSE, SPARSE])
@pytest.mark.parametrize("name", KERNELS)
def test_every_remainder_of_a_tile(name: str, group: int) -> None:
    rng = np.random.default_rng(0)
    weight = nm_weight(rng, (7, 5, 3, 3), 3, 5)
    params = ConvParams(weight, rng.standard_normal(7).astype(np.float32), 1, 1, 1)
    lanes = CORE.kernels(name).lanes
    for rows, vectors in [(r, v) for r in range(1, 6) for v in range(1, 26, 1 + r % 3)]:
        image = rng.standard_normal((1, 5, rows, lanes * vectors - rows % lanes))
        check(name, params, image.astype(np.float32), group, slope=0.05, residual=True)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("group", [DENSE, SPARSE, GROUPED])
@pytest.mark.parametrize("name", KERNELS)
def test_no_sum_overflows(name: str, group: int, sign: float) -> None:
    """Every weight is the largest one, every input is at or far beyond its bound."""
    for c_in, kernel in [(1, 1), (2, 1), (4, 3), (64, 3), (33, 5), (100, 7)]:
        weight = np.full((2, c_in, kernel, kernel), 3e5, np.float32)
        weight[1] *= -1
        params = ConvParams(weight, np.zeros(2, np.float32), 0, 1, 1)
        most = 3e5 * 7.0 * c_in * kernel**2 * sign
        for size in (7.0, 1e30, np.inf):
            image = np.full((1, c_in, kernel, kernel + 40), sign * size, np.float32)
            got = run_one(name, params, image, group=group, input_range=7.0)
            assert got[:, 0] == pytest.approx(most, rel=1e-2)
            assert got[:, 1] == pytest.approx(-most, rel=1e-2)


@pytest.mark.parametrize("name", KERNELS)
def test_signs_that_cancel_and_one_great_weight(name: str) -> None:
    """Partial sums reach the bound although the whole sum does not."""
    rng = np.random.default_rng(1)
    weight = np.ones((3, 64, 3, 3), np.float32)
    weight[0, 32:] *= -1
    weight[1, 1:] = 0
    weight[2] *= 1e-6
    weight[2, 5, 1, 1] = 1e6
    params = ConvParams(weight, np.zeros(3, np.float32), 1, 1, 1)
    image = rng.choice([-1.0, 1.0], (1, 64, 9, 50)).astype(np.float32)
    image[:, :, :, :20] = 1.0
    for group in (DENSE, SPARSE, 16):
        check(name, params, image, group)


@pytest.mark.parametrize("group", [DENSE, SPARSE])
@pytest.mark.parametrize("name", KERNELS)
def test_saturated_inputs_are_counted_once(name: str, group: int) -> None:
    rng = np.random.default_rng(3)
    params = ConvParams(nm_weight(rng, (4, 3, 3, 3), 2, 3), np.zeros(4, np.float32), 1, 1, 1)
    for height, width in [(1, 1), (5, 3), (37, 101), (20, 330)]:
        image = rng.uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
        beyond = rng.random(image.shape) < 0.01
        image[beyond] *= np.float32(1e3)
        image[0, 0, 0, 0] = 2.0
        counts: list[int] = []
        got = run_one(name, params, image, group=group, input_range=1.0, saturated=counts)
        assert counts == [int((np.abs(image) > 1.0001).sum())]
        clipped = image.clip(-1, 1)
        bound = error_bound(params, 1.0)
        assert (np.abs(got - reference(params, clipped)) <= bound).all()


@pytest.mark.parametrize("name", KERNELS)
def test_sets_of_instructions_agree_to_the_last_bit_but_those_of_floats(name: str) -> None:
    """Integers do not depend on an order: kernels, groups and threads differ in no bit."""
    rng = np.random.default_rng(4)
    params = ConvParams(nm_weight(rng, (9, 40, 3, 3), 10, 40), np.ones(9, np.float32), 1, 1, 1)
    image = rng.standard_normal((1, 40, 33, 90)).astype(np.float32)
    first = run_one(name, params, image, group=DENSE, input_range=5.0)
    for group, threads in [(SPARSE, 1), (16, 3), (GROUPED, 2)]:
        other = run_one(name, params, image, group=group, input_range=5.0, threads=threads)
        assert np.array_equal(first, other)


@pytest.mark.parametrize("name", KERNELS)
def test_the_range_of_a_tensor_is_its_largest_magnitude(name: str) -> None:
    rng = np.random.default_rng(5)
    kernels = CORE.kernels(name)
    image = rng.uniform(-1, 1, (1, 3, 19, 45)).astype(np.float32)
    image[0, 1, 11, 44] = -3.5
    shape = CORE.Shape(3, 19, 45, -(-45 // kernels.lanes))
    program = CORE.Program(kernels, kernels.floats(shape))
    x = program.tensor(0, shape)
    program.pack(CORE.Slice(x, 0, 3))
    program.record_range(CORE.Slice(x, 0, 3))
    program.record_range(CORE.Slice(x, 2, 1))
    program.unpack(CORE.Slice(x, 0, 3))
    for factor in (1.0, 0.5):  # of all runs
        program.run(CORE.ThreadPool(2), image * np.float32(factor), np.empty_like(image))
    assert program.ranges() == [3.5, pytest.approx(float(np.abs(image[0, 2]).max()))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_range": -1.0}, "positive and finite"),
        ({"input_range": float("nan")}, "positive and finite"),
        ({"input_range": float("inf")}, "positive and finite"),
        ({"input_range": 1e-45}, "positive and finite"),
        ({"group": -1}, "Winograd's kernel has no int16"),
        ({"weight": np.full((1, 1, 3, 3), np.nan, np.float32)}, "must be finite"),
    ],
    ids=str,
)
def test_what_has_no_integers_is_refused(change: dict[str, Any], message: str) -> None:
    options = {"input_range": 1.0, "group": 1, "weight": np.ones((1, 1, 3, 3), np.float32)}
    options |= change
    params = ConvParams(options.pop("weight"), np.zeros(1, np.float32), 1, 1, 1)
    with pytest.raises(ValueError, match=message):
        run_one(KERNELS[0], params, np.ones((1, 1, 4, 4), np.float32), **options)


@pytest.mark.skipif(not BF16, reason="this CPU has no AVX512_BF16")
def test_tensors_in_bfloat16_are_refused() -> None:
    params = ConvParams(np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32), 0, 1, 1)
    assert sparse_weights(CORE, params).nonzeros == 1
    with pytest.raises(ValueError, match="fp32 storage"):
        run_one(BF16[0], params, np.ones((1, 1, 4, 4), np.float32), group=1, input_range=1.0)
