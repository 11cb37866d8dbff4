from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from native_engine import BF16, CORE, KERNELS, built
from thinlens.engine.kernel_choice import WINOGRAD
from thinlens.engine.ops.conv import ConvParams, sparse_weights

pytestmark = built


def nm_weight(rng: np.random.Generator, shape: tuple[int, ...], n: int, m: int) -> np.ndarray:
    """Random weights of which, of `m` consecutive input channels, `n` live."""
    weight = rng.standard_normal(shape).astype(np.float32)
    c_out, c_in, kh, kw = shape
    for o, y, x in np.ndindex(c_out, kh, kw):
        for first in range(0, c_in, m):
            group = weight[o, first : first + m, y, x]
            group[rng.permutation(len(group))[n:]] = 0
    return weight


def run_one(
    name: str, params: ConvParams, image: np.ndarray, *, group: int, **options: Any
) -> np.ndarray:
    """Run one convolution: pack, conv, unpack; `options`: shuffle, slope, residual, threads,
    weights, input_range, and saturated, a list that gets the number of saturated inputs."""
    kernels = CORE.kernels(name)
    r, residual = options.get("shuffle", 1), options.get("residual")
    height, width = image.shape[2:]
    c_out, c_in = params.weight.shape[:2]
    s = max(params.stride, -(-width // kernels.lanes), params.halo)
    s = -(-s // params.stride) * params.stride
    sizes = [
        (n + 2 * params.padding - params.dilation * (k - 1) - 1) // params.stride + 1
        for n, k in zip((height, width), params.weight.shape[2:], strict=True)
    ]
    # two more channels on either side: what is convolved and written is a slice
    into = CORE.Shape(c_in + 3, height, width, row_vectors=s, halo=params.halo)
    result_shape = CORE.Shape(
        channels=c_out // r**2 + 3,
        height=sizes[0] * r,
        width=sizes[1] * r,
        row_vectors=s // params.stride * r,
        halo=1,
    )
    floats = [kernels.floats(shape) for shape in (into, result_shape)]
    program = CORE.Program(kernels, arena_floats=sum(floats) + floats[1])
    x = CORE.Slice(program.tensor(0, into), first=1, channels=c_in)
    y = CORE.Slice(program.tensor(floats[0], result_shape), first=2, channels=c_out // r**2)
    z = None
    weights = options.get("weights") or sparse_weights(CORE, params)
    program.pack(x)
    if residual is not None:
        extra = program.tensor(floats[0] + floats[1], result_shape)
        # any values; overwritten by the convolution below
        program.resize(CORE.Slice(x.tensor, 1, 1), CORE.Slice(extra, 0, 1))
        z = CORE.Slice(extra, first=2, channels=c_out)
        program.conv(weights, x, z)
    slope = options.get("slope", 1.0)
    program.conv(
        weights,
        x,
        y,
        residual=z,
        slope=slope,
        shuffle=r,
        channel_group=group,
        input_range=options.get("input_range", 0.0),
    )
    program.unpack(y)
    result = np.full((len(image), c_out // r**2, sizes[0] * r, sizes[1] * r), np.nan, np.float32)
    program.run(CORE.ThreadPool(options.get("threads", 1)), image, result)
    if "saturated" in options:
        options["saturated"].append(program.saturated())
    return result


def reference(params: ConvParams, image: np.ndarray, **options: Any) -> np.ndarray:
    weight, bias = torch.from_numpy(params.weight), torch.from_numpy(params.bias)
    y = F.conv2d(
        torch.from_numpy(image).double(),
        weight.double(),
        bias.double(),
        params.stride,
        params.padding,
        params.dilation,
    )
    slope = torch.tensor(options.get("slope", 1.0), dtype=torch.float64)
    y = F.prelu(2 * y if options.get("residual") else y, slope.reshape(-1))
    return F.pixel_shuffle(y, options.get("shuffle", 1)).numpy()


def tolerance(params: ConvParams) -> float:
    return 2e-6 * math.sqrt(params.weight[0].size)


def stored(name: str, values: np.ndarray) -> np.ndarray:
    """What is left of values in the kernels' storage."""
    return torch.from_numpy(values).bfloat16().float().numpy() if name in BF16 else values


def check(name: str, params: ConvParams, got: np.ndarray, wanted: np.ndarray) -> None:
    """Sums are float32 always; in bfloat16 the output, and a residual, are rounded to 8 bits."""
    rounding = 2.0**-8 * np.abs(wanted) if name in BF16 else 0.0
    scale = max(1.0, float(np.abs(wanted).max()))
    assert (np.abs(got - wanted) <= rounding + tolerance(params) * scale).all()


@pytest.mark.parametrize("name", [*KERNELS, *BF16])
@pytest.mark.parametrize("group", [0, 5, 64], ids=["dense", "grouped", "sparse"])
@settings(max_examples=25)
@given(data=st.data())
def test_a_convolution_is_conv2d(name: str, group: int, data: st.DataObject) -> None:
    k = data.draw(st.sampled_from([1, 3, 5]))
    stride, dilation = data.draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
    padding = data.draw(st.integers(0, k // 2 * dilation))
    least = max(1, dilation * (k - 1) + 1 - 2 * padding)
    height, width = (data.draw(st.integers(least, max(40, least))) for _ in range(2))
    c_in, shuffle = data.draw(st.integers(1, 40)), data.draw(st.sampled_from([1, 2, 3]))
    c_out = data.draw(st.integers(1, 6)) * shuffle**2
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = (c_out, c_in, k, k)
    weight = nm_weight(rng, shape, data.draw(st.integers(0, 4)), data.draw(st.sampled_from([4, 7])))
    bias = rng.standard_normal(c_out).astype(np.float32)
    params = ConvParams(stored(name, weight), bias, padding, stride, dilation)
    image = stored(name, rng.standard_normal((2, c_in, height, width)).astype(np.float32))
    apart = np.linspace(-0.5, 1.5, c_out).tolist()  # PReLU
    options = {"shuffle": shuffle, "slope": data.draw(st.sampled_from([1.0, 0.0, 0.1, apart]))}
    wanted = reference(params, image, **options)
    got = run_one(name, params, image, group=group, **options)
    check(name, params, got, wanted)


@pytest.mark.parametrize("name", [*KERNELS, *BF16])
@pytest.mark.parametrize("group", [0, 16])
def test_every_size_and_a_residual(name: str, group: int) -> None:
    rng = np.random.default_rng(0)
    bias = rng.standard_normal(3).astype(np.float32)
    params = ConvParams(stored(name, nm_weight(rng, (3, 20, 3, 3), 2, 8)), bias, 1, 1, 1)
    for size in range(1, 41):
        image = stored(name, rng.standard_normal((1, 20, size, 41 - size)).astype(np.float32))
        got = run_one(name, params, image, group=group, residual=True, slope=0.05)
        wanted = reference(params, image, residual=True, slope=0.05)
        check(name, params, got, wanted)


@pytest.mark.parametrize("name", [*KERNELS, *BF16])
@pytest.mark.parametrize("group", [WINOGRAD, 0, 4, 16], ids=["winograd", "dense", "groups", "one"])
def test_weights_that_served_another_size_give_the_same_bits(name: str, group: int) -> None:
    rng = np.random.default_rng(0)
    params = ConvParams(nm_weight(rng, (12, 10, 3, 3), 2, 5), rng.random(12, np.float32), 1, 1, 1)
    shared = sparse_weights(CORE, params)
    for size in ((9, 70), (4, 3), (21, 40)):
        image = rng.random((1, 10, *size), np.float32)
        other = run_one(name, params, image, group=group, weights=shared)
        assert np.array_equal(other, run_one(name, params, image, group=group))


@pytest.mark.parametrize("name", [*KERNELS, *BF16])
def test_two_threads_give_the_same_bits(name: str) -> None:
    rng = np.random.default_rng(1)
    params = ConvParams(nm_weight(rng, (8, 32, 3, 3), 8, 32), np.zeros(8, np.float32), 1, 1, 1)
    image = rng.standard_normal((1, 32, 37, 50)).astype(np.float32)
    for group in (0, 16):
        one = run_one(name, params, image, group=group)
        for _ in range(5):
            assert np.array_equal(one, run_one(name, params, image, group=group, threads=2))


GOOD: dict[str, Any] = {
    "shape": {},
    "starts": [0, 1, 3],
    "indices": [1, 0, 1],
    "values": [1.0, 2.0, 3.0],
    "bias": [0.0, 0.0],
}


@pytest.mark.parametrize(
    "damage",
    [
        {"indices": [2, 0, 1]},
        {"indices": [-1, 0, 1]},
        {"indices": [1, 1, 1]},
        {"indices": [1, 1, 0]},
        {"starts": [0, 4, 3]},
        {"starts": [0, -1, 3]},
        {"starts": [1, 1, 3]},
        {"starts": [0, 1, 2]},
        {"starts": [0, 3]},
        {"values": [1.0, 2.0]},
        {"bias": [0.0]},
        {"shape": {"in_channels": 0}},
        {"shape": {"out_channels": 1 << 20}},
        {"shape": {"stride": (0, 1)}},
        {"shape": {"kernel_height": 199}},
        {"shape": {"padding": (0, -2000)}},
        {"shape": {"dilation": (1, 0)}},
        {"shape": {"groups": 0}},
        {"shape": {"in_channels": 3, "groups": 2}},
    ],
    ids=str,
)
def test_damaged_weights_are_refused(damage: dict[str, Any]) -> None:
    def build(parts: dict[str, Any]) -> Any:
        sizes = {"in_channels": 2, "out_channels": 2, "kernel_height": 1, "kernel_width": 1}
        shape = CORE.ConvShape(**{**sizes, **parts["shape"]})
        arrays = [np.asarray(parts[name], np.int32) for name in ("starts", "indices")]
        arrays += [np.asarray(parts[name], np.float32) for name in ("values", "bias")]
        return CORE.SparseWeights(shape, *arrays)

    assert build(GOOD).nonzeros == 3
    with pytest.raises(ValueError, match=r"weights|channels|kernel|stride|padding"):
        build({**GOOD, **damage})


def test_a_program_refuses_what_would_leave_its_memory() -> None:
    kernels = CORE.kernels("baseline")
    good = {"channels": 2, "height": 4, "width": 16, "row_vectors": 4}
    program = CORE.Program(kernels, kernels.floats(CORE.Shape(**good)))
    params = ConvParams(np.ones((2, 2, 1, 1), np.float32), np.zeros(2, np.float32), 0, 1, 1)
    x = program.tensor(0, CORE.Shape(**good))
    for bad in ((1, 0, 2), (x, 1, 2), (x, -1, 2), (x, 0, 0), (-1, 0, 2)):
        with pytest.raises(ValueError, match="tensor"):
            program.pack(CORE.Slice(*bad))
    for offset, change in ((16, {}), (0, {"width": 17}), (0, {"halo": 1}), (3, {})):
        with pytest.raises(ValueError, match="tensor"):
            program.tensor(offset, CORE.Shape(**{**good, **change}))
    with pytest.raises(ValueError, match="channel -1"):
        program.pack(CORE.Slice(x, 0, 2), first_channel=-1)
    with pytest.raises(ValueError, match="writes over what it reads"):
        program.conv(sparse_weights(CORE, params), CORE.Slice(x, 0, 2), CORE.Slice(x, 0, 2))
    wide = replace(params, weight=np.ones((2, 2, 3, 3), np.float32), padding=1)
    with pytest.raises(ValueError, match="halo"):
        program.conv(sparse_weights(CORE, wide), CORE.Slice(x, 0, 2), CORE.Slice(x, 0, 2))
    with pytest.raises(ValueError, match="no kernels"):
        CORE.kernels("mmx")
    with pytest.raises(ValueError, match="threads"):
        CORE.ThreadPool(0)
