"""Our rules give the shapes that torch gives, and tracing does not import torch's compiler."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from native_engine import built
from thinlens.models.aten_arguments import bind_arguments
from thinlens.models.result_shapes import _RULES, result_shape, result_without_values

ATEN = torch.ops.aten
SIDES = st.integers(1, 9)
ELEMENTWISE = sorted(name for name, rule in _RULES.items() if rule.__name__ == "_same")
BINARY = sorted(name for name, rule in _RULES.items() if rule.__name__ == "_broadcast")
BOUNDS = {"clamp": (-1, 1), "clamp_min": (0,), "clamp_max": (1,)}


def check(operation: Any, *args: Any, known: bool = True) -> None:
    """Compare a rule with torch, where it says anything and `known`: where it must."""
    name, arguments = bind_arguments(operation, args, None)
    shape = result_shape(name, arguments)
    assert not known or shape is not None
    if shape is not None:
        expected = operation(*args)
        result = result_without_values(name, arguments)
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        assert shape == tuple(expected.shape)
        assert expected.is_contiguous() and expected.dtype == torch.float32


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape)


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if hasattr(ATEN, name)])
def test_elementwise_operations_keep_the_shape(name: str) -> None:
    overload = getattr(ATEN, name).default
    check(overload, noise(1, 2, 3, 4), *BOUNDS.get(name, ()))
    check(overload, noise(1, 2, 3, 4).permute(0, 3, 1, 2), *BOUNDS.get(name, ()), known=False)


@given(SIDES, SIDES, SIDES, st.sets(st.integers(0, 3)))
def test_operands_are_broadcast(c: int, h: int, w: int, single: set[int]) -> None:
    sides = (1, c, h, w)
    other = [1 if axis in single else side for axis, side in enumerate(sides)]
    for name in ("add", "sub", "mul", "div"):
        overload = getattr(ATEN, name).Tensor
        check(overload, noise(*sides), noise(*other))
        check(overload, noise(*other), noise(*sides))
        check(overload, noise(*sides), 2.5)
        check(overload, noise(*sides), noise(*other).double(), known=False)
    for name in ("maximum", "minimum"):
        check(getattr(ATEN, name).default, noise(*sides), noise(*other))


@given(st.lists(SIDES, min_size=1, max_size=3), SIDES, SIDES, st.integers(-3, 3))
def test_concatenations_add_up(channels: list[int], h: int, w: int, dim: int) -> None:
    tensors = [noise(1, c, h, w) for c in channels]
    if dim in (1, -3) or len(set(channels)) == 1:
        check(ATEN.cat.default, tensors, dim)


@given(SIDES, SIDES, st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
def test_convolutions(h: int, w: int, k: int, stride: int, padding: int, dilation: int) -> None:
    fits = min(h, w) + 2 * padding >= dilation * (k - 1) + 1
    for groups in (1, 2):
        weight, options = noise(4, 4 // groups, k, k), ([stride], [padding], [dilation])
        if fits:
            for bias in (None, noise(4)):
                args = (*options, False, [0, 0], groups)
                check(ATEN.convolution.default, noise(1, 4, h, w), weight, bias, *args)


@given(st.integers(3, 12), st.integers(3, 12), st.integers(1, 3), st.integers(0, 3), st.booleans())
def test_pools(height: int, width: int, window: int, stride: int, ceil_mode: bool) -> None:
    image, steps = noise(1, 2, height, width), [stride] if stride else []
    for padding in (0, window // 2):
        args = ([window], steps, [padding], [1], ceil_mode)
        name, arguments = bind_arguments(ATEN.max_pool2d_with_indices.default, (image, *args), None)
        result = result_without_values(name, arguments)
        assert ceil_mode or result is not None
        if result is not None:
            expected = ATEN.max_pool2d_with_indices.default(image, *args)
            for one, other in zip(result, expected, strict=True):
                assert (one.shape, one.dtype) == (other.shape, other.dtype)


@given(SIDES, SIDES, SIDES, st.integers(1, 3))
def test_pixel_shuffles(channels: int, height: int, width: int, factor: int) -> None:
    image = noise(1, channels, height, width)
    if channels % factor**2 == 0:
        check(ATEN.pixel_shuffle.default, image, factor)


def test_what_is_not_exact_is_torchs() -> None:
    image, weight = noise(1, 4, 5, 5), noise(4, 4, 3, 3)
    for strange in (image.half(), image[:, :, ::2], image.to(memory_format=torch.channels_last)):
        assert result_shape("relu", {"self": strange}) is None
    options = {"stride": [1], "padding": [0], "dilation": [1], "bias": None, "groups": 1}
    for changed in ({"transposed": True}, {"transposed": False, "input": noise(1, 3, 5, 5)}):
        arguments = {"input": image, "weight": weight, **options, **changed}
        assert result_shape("convolution", arguments) is None
    with pytest.raises(RuntimeError):  # its sentence is better than one of ours
        torch.conv2d(noise(1, 3, 5, 5), weight)


@pytest.mark.parametrize("name", ["upsample_bilinear2d", "upsample_nearest2d"])
def test_resizes(name: str) -> None:
    overload = getattr(ATEN, name).default
    extra = [False] if "align_corners" in str(overload._schema) else []
    check(overload, noise(1, 2, 3, 4), [5, 7], *extra)


TRACES = """
import sys, torch, thinlens
from thinlens.engine.compiled import Compiled
for name in ("rfdn", "edsr", "carn"):
    entry = thinlens.models.MODELS[name]
    module = entry.build(entry.make_config(**entry.tiny)).eval()
    Compiled(module, 1)(torch.rand(1, 3, 20, 24))
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""


@built
def test_the_engine_does_not_import_torchs_compiler() -> None:
    """It takes a second and 70 MB."""
    done = subprocess.run(
        [sys.executable, "-c", TRACES], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_every_rule_is_tested() -> None:
    source = inspect.getsource(sys.modules[__name__])
    others = _RULES.keys() - {*ELEMENTWISE, "_prelu_kernel"}
    assert all(name in source for name in others)
