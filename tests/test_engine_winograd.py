"""Winograd's kernel: the error bound of csrc/micro/winograd.h, on every set of instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from native_engine import BF16, CORE, KERNELS, built
from test_engine_kernels import nm_weight, reference, run_one, stored
from thinlens.engine import stream
from thinlens.engine.compiled import Compiled
from thinlens.engine.kernel_choice import WINOGRAD
from thinlens.engine.ops.conv import ConvParams, sparse_weights

pytestmark = built

POINTS = np.array([0.0, 0.75, -0.75, 1.5, -1.5])
UNIT = 2.0**-24
ROUNDINGS = 24


def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A' [4, 6], G [6, 3] and B' [6, 6] of Toom and Cook's algorithm at POINTS and infinity."""
    outputs, weights, inputs = np.zeros((4, 6)), np.zeros((6, 3)), np.zeros((6, 6))
    for i, point in enumerate(POINTS):
        others = np.delete(POINTS, i)
        outputs[:, i] = point ** np.arange(4)
        weights[i] = point ** np.arange(3) / np.prod(point - others)
        inputs[i, :5] = np.poly(others)[::-1]
    outputs[3, 5] = weights[5, 2] = 1.0
    inputs[5] = np.poly(POINTS)[::-1]
    return outputs, weights, inputs


OUTPUTS, WEIGHTS, INPUTS = transforms()


def test_the_transforms_are_a_convolution() -> None:
    rng = np.random.default_rng(0)
    taps, row = rng.standard_normal(3), rng.standard_normal(6)
    products = (WEIGHTS @ taps) * (INPUTS @ row)
    assert OUTPUTS @ products == pytest.approx(np.correlate(row, taps, "valid"))


def error_bound(params: ConvParams, image: np.ndarray, **options: Any) -> float:
    """The stated bound with each input replaced by the largest of the image.

    It bounds every output whatever the tiles; a residual of these tests is a convolution, too.
    """
    taps = np.abs(WEIGHTS) @ np.abs(params.weight.astype(np.float64)) @ np.abs(WEIGHTS).T
    inputs = np.abs(INPUTS).sum(1) * np.abs(image).max()
    products = taps.sum(1) * np.outer(inputs, np.abs(INPUTS).sum(1))
    sums = (np.abs(OUTPUTS) @ products @ np.abs(OUTPUTS).T).max((1, 2)) + np.abs(params.bias)
    steepest = max(1.0, float(np.abs(options.get("slope", 1.0)).max()))
    terms = 2 if options.get("residual") else 1
    roundings = params.in_channels + ROUNDINGS
    return float(roundings * UNIT * terms * steepest * sums.max())


def check(name: str, params: ConvParams, image: np.ndarray, **options: Any) -> None:
    got = run_one(name, params, image, group=WINOGRAD, **options)
    wanted = reference(params, image, **options)
    rounding = 2.0**-8 * np.abs(wanted) if name in BF16 else 0.0
    assert (np.abs(got - wanted) <= rounding + error_bound(params, image, **options)).all()


@pytest.mark.parametrize("name", [*KERNELS, *BF16])
@settings(max_examples=40)
@given(data=st.data())
def test_errors_are_within_the_bound(name: str, data: st.DataObject) -> None:
    padding = data.draw(st.integers(0, 1))
    least = 3 - 2 * padding
    height, width = (data.draw(st.integers(least, 40)) for _ in range(2))
    c_in, shuffle = data.draw(st.integers(1, 40)), data.draw(st.sampled_from([1, 2, 3]))
    c_out = data.draw(st.integers(1, 20)) * shuffle**2
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    kept = data.draw(st.integers(0, 7))
    weight = stored(name, nm_weight(rng, (c_out, c_in, 3, 3), kept, 7))
    bias = rng.standard_normal(c_out).astype(np.float32)
    params = ConvParams(weight, bias, padding, 1, 1)
    image = stored(name, rng.standard_normal((2, c_in, height, width)).astype(np.float32))
    apart = np.linspace(-0.5, 1.5, c_out).tolist()  # PReLU
    slope = data.draw(st.sampled_from([1.0, 0.0, 0.1, apart]))
    residual = (shuffle == 1 and data.draw(st.booleans())) or None
    check(name, params, image, shuffle=shuffle, slope=slope, residual=residual)


@pytest.mark.parametrize("name", [*KERNELS, *BF16])
def test_every_remainder_of_a_tile(name: str) -> None:
    rng = np.random.default_rng(0)
    bias = rng.standard_normal(9).astype(np.float32)
    params = ConvParams(stored(name, nm_weight(rng, (9, 5, 3, 3), 3, 5)), bias, 1, 1, 1)
    lanes = CORE.kernels(name).lanes
    for rows, vectors in [(r, v) for r in range(1, 10) for v in range(1, 28, 1 + r % 3)]:
        width = lanes * vectors - rows % lanes
        image = stored(name, rng.standard_normal((1, 5, rows, width)).astype(np.float32))
        check(name, params, image, slope=0.05, residual=True)


@pytest.mark.parametrize("name", KERNELS)
def test_the_mean_error_is_a_few_times_that_of_direct_convolution(name: str) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 64, 3, 3)).astype(np.float32)
    params = ConvParams(weight, np.zeros(16, np.float32), 1, 1, 1)
    image = rng.standard_normal((1, 64, 40, 60)).astype(np.float32)
    wanted = reference(params, image)
    direct, winograd = (
        float(np.square(run_one(name, params, image, group=group) - wanted).mean() ** 0.5)
        for group in (0, WINOGRAD)
    )
    assert winograd < 4 * direct


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_of_an_earlier_image_is_left(name: str) -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((9, 8, 3, 3)).astype(np.float32)
    params = ConvParams(weight, np.zeros(9, np.float32), 1, 1, 1)
    image = rng.standard_normal((2, 8, 13, 77)).astype(np.float32)
    image[0] = np.nan
    both = run_one(name, params, image, group=WINOGRAD)
    assert np.array_equal(both[1:], run_one(name, params, image[1:], group=WINOGRAD))


@pytest.mark.parametrize("name", KERNELS)
def test_bands_and_threads_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    wide = [layer for _ in range(3) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8))]
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *wide, nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
    ).eval()
    image = torch.rand(1, 3, 45, 50)

    def winograd(params: ConvParams, row_vectors: int, rows: int) -> int:
        return WINOGRAD

    monkeypatch.setattr(stream, "CACHE_BYTES", 0)
    whole = Compiled(module, 1, name, winograd)(image)
    monkeypatch.undo()
    torch.testing.assert_close(whole, module(image).detach(), rtol=0, atol=3e-6)
    for rows, threads in ((1, 2), (3, 1), (3, 3), (5, 2), (4, 7)):
        monkeypatch.setattr(stream, "MIN_BLOCK_ROWS", rows)
        assert torch.equal(Compiled(module, threads, name, winograd)(image), whole)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"weight": np.ones((4, 4, 5, 5), np.float32), "padding": 2},
    ],
    ids=str,
)
def test_what_it_cannot_convolve_is_refused(change: dict[str, Any]) -> None:
    sizes = {"weight": np.ones((4, 4, 3, 3), np.float32), "padding": 1, "stride": 1, "dilation": 1}
    params = ConvParams(**{"bias": np.zeros(4, np.float32), **sizes, **change})
    assert not params.fits_winograd
    kernels = CORE.kernels(KERNELS[0])
    width, (below, right) = 4 * kernels.lanes, params.strides
    shape = CORE.Shape(params.in_channels, 8, width, 4, halo=2)
    out = CORE.Shape(4, 8 // below, width // right, 4 // right)
    floats = [kernels.floats(shape), kernels.floats(out)]
    program = CORE.Program(kernels, sum(floats))
    x = CORE.Slice(program.tensor(0, shape), 0, params.in_channels)
    y = CORE.Slice(program.tensor(floats[0], out), 0, 4)
    with pytest.raises(ValueError, match="Winograd"):
        program.conv(sparse_weights(CORE, params), x, y, channel_group=WINOGRAD)
