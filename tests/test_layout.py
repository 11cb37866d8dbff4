"""A weight's canonical layout is that of the convolution it computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from small_layers import layers
from thinlens.sparsity.layout import (
    PrunableModule,
    canonical,
    from_canonical,
    from_groups,
    in_groups,
)


@given(layers())
def test_there_and_back(layer: PrunableModule) -> None:
    rows = canonical(layer.weight, layer)
    back = from_canonical(rows, layer)
    assert torch.equal(back, layer.weight)
    assert back.stride() == layer.weight.stride()
    assert back.data_ptr() != layer.weight.data_ptr()
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    assert rows.shape[-1] == inputs // getattr(layer, "groups", 1)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_layout_is_what_the_convolution_computes(kind: type, groups: int) -> None:
    """Every weight alone: which input does it carry to which output, and how far?

    Input channel i is i + 1 at one pixel; with weight 1 at one entry, one output pixel is not 0:
    its channel is c_out, its value tells c_in, its shift the kernel position.
    """
    layer = kind(4, 6, (2, 3), groups=groups, bias=False)
    image = torch.zeros(1, 4, 5, 5)
    image[0, :, 2, 2] = torch.arange(1.0, 5.0)
    sign = -1 if kind is nn.Conv2d else 1
    for entry in range(layer.weight.numel()):
        with torch.no_grad():
            layer.weight.zero_().view(-1)[entry] = 1
            output = layer(image)[0]
        [[c_out, y, x]] = output.nonzero().tolist()
        source = int(output[c_out, y, x]) - 1
        within = source - c_out // (6 // groups) * (4 // groups)
        expected = [c_out, sign * (y - 2), sign * (x - 2), within]
        assert canonical(layer.weight, layer).nonzero().tolist() == [expected]


def test_the_layout_of_a_linear_layer_is_its_weight() -> None:
    layer = nn.Linear(3, 2)
    assert canonical(layer.weight, layer).shape == (2, 1, 1, 3)
    assert torch.equal(canonical(layer.weight, layer)[:, 0, 0], layer.weight)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 12))
def test_groups_there_and_back(outputs: int, channels: int, m: int) -> None:
    rows = torch.arange(outputs * 2 * channels).reshape(outputs, 2, 1, channels)
    groups = in_groups(rows, m, fill=-1)
    assert groups.shape == (outputs * 2 * -(-channels // m), m)
    assert torch.equal(from_groups(groups, rows.shape), rows)


def test_a_group_never_runs_into_the_next_kernel_position() -> None:
    rows = torch.arange(6).reshape(1, 1, 2, 3)
    assert in_groups(rows, 2, fill=-1).tolist() == [[0, 1], [2, -1], [3, 4], [5, -1]]
