"""Do the second moments say what a layer sees, for every kind of layer?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thinlens.errors import RunError
from thinlens.methods.moments import (
    Moments,
    MomentSums,
    calibration_images,
    sample,
    unfolded,
)
from thinlens.sparsity.layout import PrunableModule, canonical

LAYERS: list[tuple[PrunableModule, tuple[int, ...]]] = [
    (nn.Conv2d(4, 3, 3, padding=1), (2, 4, 6, 5)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=2, groups=2), (2, 4, 9, 7)),
    (nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect", bias=False), (2, 4, 5, 5)),
    (nn.Conv2d(2, 3, 5, padding=2, padding_mode="replicate"), (1, 2, 4, 6)),
    (nn.Conv2d(2, 3, (3, 5), padding="same", dilation=2), (1, 2, 5, 6)),
    (nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1), (2, 4, 3, 4)),
    (nn.ConvTranspose2d(4, 6, (3, 5), (2, 3), (1, 2), (1, 2), groups=2, bias=False), (2, 4, 3, 4)),
    (nn.ConvTranspose2d(2, 3, 3, stride=2, dilation=2), (1, 2, 4, 3)),
    (nn.Linear(4, 3), (2, 5, 4)),
    (nn.Linear(4, 3), (7, 4)),
]


def grouped(layer: PrunableModule) -> Tensor:
    """The weight as the moments' columns: float64 `[g, c, p]`."""
    rows = canonical(layer.weight.detach().double(), layer)
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    return rows.reshape(groups, rows.shape[0] // groups, -1)


def outputs(layer: PrunableModule, x: Tensor) -> Tensor:
    """The layer's outputs, one position a row: `[P, c_out]`."""
    y = layer(x).detach()
    return (y if isinstance(layer, nn.Linear) else y.permute(0, 2, 3, 1)).flatten(0, -2)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda x: str(x).replace(" ", ""))
def test_unfolded_inputs_times_weights_are_the_outputs(
    layer: PrunableModule, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    drawn = sample(layer, layer(x).detach(), 11, seed=4)
    (rows,) = unfolded(layer, x, drawn)
    product = (rows @ grouped(layer).mT).movedim(0, 1).flatten(1)
    if layer.bias is not None:
        product = product + layer.bias.detach()
    torch.testing.assert_close(product.float(), outputs(layer, x)[drawn.positions])
    torch.testing.assert_close(drawn.targets, outputs(layer, x)[drawn.positions])


@pytest.mark.parametrize(("layer", "shape"), LAYERS[:3], ids=["bias", "groups", "no bias"])
def test_error_and_bias_are_those_of_the_layer(
    layer: PrunableModule, shape: tuple[int, ...]
) -> None:
    """The error of other weights, with the bias that suits them best, summed over two calls."""
    sums, images, answers = MomentSums(layer), [torch.randn(shape) for _ in range(2)], []
    for x in images:
        drawn = sample(layer, layer(x).detach(), 10**6, seed=0)
        sums.add(x, drawn)
        answers.append(outputs(layer, x))
    moments = sums.moments()
    other = torch.randn_like(grouped(layer))
    products = []
    for x, y in zip(images, answers, strict=True):
        drawn = sample(layer, layer(x).detach(), 10**6, seed=0)
        assert torch.equal(drawn.targets, y)
        products += [
            (rows @ other.mT).movedim(0, 1).flatten(1) for rows in unfolded(layer, x, drawn)
        ]
    missed = torch.cat(answers).double() - torch.cat(products)
    bias = missed.mean(0) if layer.bias is not None else torch.zeros(missed.shape[1]).double()
    torch.testing.assert_close(moments.bias(other).flatten(), bias)
    torch.testing.assert_close(moments.error(other).flatten(), (missed - bias).square().mean(0))


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = LAYERS[0][0], torch.randn(3, 4, 9, 9)

    def moments() -> Moments:
        sums = MomentSums(layer)
        sums.add(x, sample(layer, layer(x).detach(), 200, seed=1))
        return sums.moments()

    whole = moments()
    monkeypatch.setattr("thinlens.methods.moments.UNFOLD_CHUNK", 7)
    for one, other in zip(vars(whole).values(), vars(moments()).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_positions_are_drawn_once_each_and_by_the_seed() -> None:
    layer, output = nn.Conv2d(1, 2, 1), torch.randn(2, 2, 5, 5)
    drawn = sample(layer, output, 20, seed=1).positions
    assert len(set(drawn.tolist())) == 20
    assert torch.equal(drawn, sample(layer, output, 20, seed=1).positions)
    assert not torch.equal(drawn, sample(layer, output, 20, seed=2).positions)
    assert torch.equal(sample(layer, output, 50, seed=1).positions, torch.arange(50))


def test_a_network_that_gives_nan_is_named_as_the_cause() -> None:
    layer, x = nn.Conv2d(1, 2, 1), torch.full((1, 1, 2, 2), torch.nan)
    sums = MomentSums(layer)
    sums.add(x, sample(layer, layer(x).detach(), 4, seed=0))
    with pytest.raises(RunError, match="NaN or infinity"):
        sums.moments()


def test_calibration_takes_whole_batches_and_the_smallest_size() -> None:
    class Growing:
        def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
            x = torch.full((2, 1, 4 + step, 5 - step), float(step))
            return x, x

    images = calibration_images(Growing(), seed=0, pixels=60)
    assert images.shape == (4, 1, 4, 4)
    assert images[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
