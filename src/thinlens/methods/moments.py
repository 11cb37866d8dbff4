"""What does a layer see, and what should it answer? Both as second moments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import RunError, UsageError
from thinlens.sparsity.layout import PrunableModule
from thinlens.training.objective import TrainingData

CHUNK = 4096
"""Positions unfolded at a time, which bounds the memory of an unfolded input."""


def calibration_images(data: TrainingData, seed: int, pixels: int) -> Tensor:
    """Stack the first inputs of epoch 0 until they hold `pixels` pixels: `[B, C, h, w]`.

    Inputs of different sizes are cut to the smallest height and width, at the top left.
    """
    images: list[Tensor] = []
    seen = 0
    while seen < pixels:
        batch, _ = data.batch(seed, 0, len(images))
        if not batch.numel():
            raise UsageError("the calibration data holds an empty batch")
        images.append(batch)
        seen += batch.shape[0] * batch.shape[-2] * batch.shape[-1]
    height = min(x.shape[-2] for x in images)
    width = min(x.shape[-1] for x in images)
    return torch.cat([x[..., :height, :width] for x in images])


@dataclass(frozen=True)
class Sample:
    """Output positions of one call of a layer, and what the dense network answers there."""

    positions: Tensor
    """int64 `[P]`: indices into the output without its channels, flattened."""
    size: tuple[int, int]
    """Height and width of the output; (1, 1) for a linear layer."""
    answers: Tensor
    """float32 `[P, c_out]`: the dense network's values before the activation."""


def sample(layer: PrunableModule, output: Tensor, most: int, seed: int) -> Sample:
    """Draw at most `most` output positions of `layer`, the same for the same seed."""
    linear = isinstance(layer, nn.Linear)
    rows = output if linear else output.permute(0, 2, 3, 1)
    count = rows.numel() // rows.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(count, generator=generator)[:most] if most < count else None
    positions = (torch.arange(count) if drawn is None else drawn).to(output.device)
    size = (1, 1) if linear else (output.shape[-2], output.shape[-1])
    return Sample(positions, size, rows.reshape(count, -1)[positions].float())


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's unfolded inputs X and its wanted answers Y.

    The first axis is the convolution group; columns of X are in the canonical order
    (kh, kw, c_in / groups). For a layer with a bias X and Y are centred, so the bias, which is
    `mean_y - mean_x w`, drops out of every problem and is never penalised.
    """

    xx: Tensor
    """float64 `[g, p, p]`: mean of X^T X, the Gram matrix."""
    xy: Tensor
    """float64 `[g, p, c]`: mean of X^T Y for the group's c outputs."""
    yy: Tensor
    """float64 `[g, c]`: mean of Y^2."""
    mean_x: Tensor
    """float64 `[g, p]`; zero for a layer without a bias."""
    mean_y: Tensor
    """float64 `[g, c]`; zero for a layer without a bias."""

    def error(self, weight: Tensor) -> Tensor:
        """Return the mean squared error `[g, c]` of canonical weights `[g, c, p]`, best bias."""
        quadratic = (weight @ self.xx * weight).sum(-1)
        return self.yy - 2 * (weight * self.xy.mT).sum(-1) + quadratic

    def bias(self, weight: Tensor) -> Tensor:
        """Return the best bias `[g, c]` for canonical weights `[g, c, p]`."""
        return self.mean_y - (weight @ self.mean_x[..., None])[..., 0]


class MomentSums:
    """Sums second moments over chunks of positions, and over calls of a shared layer."""

    def __init__(self, layer: PrunableModule) -> None:
        self.layer = layer
        self.count = 0
        self._xx: Tensor | float = 0.0
        self._xy: Tensor | float = 0.0
        self._x: Tensor | float = 0.0
        self._yy: Tensor | float = 0.0
        self._y: Tensor | float = 0.0

    def add(self, x: Tensor, wanted: Sample) -> None:
        """Take in one call: the layer's whole input and the sampled positions' answers."""
        groups = _groups(self.layer)
        start = 0
        for rows in unfolded(self.layer, x, wanted):
            answers = wanted.answers[start : start + rows.shape[1]].double()
            y = answers.reshape(len(answers), groups, -1).movedim(1, 0)
            self._xx = self._xx + rows.mT @ rows
            self._xy = self._xy + rows.mT @ y
            self._x, self._y = self._x + rows.sum(1), self._y + y.sum(1)
            self._yy = self._yy + y.square().sum(1)
            start += rows.shape[1]
        self.count += start

    def moments(self) -> Moments:
        """Return the means; raises `RunError` where an activation is not finite."""
        assert isinstance(self._xx, Tensor), "moments of no call"
        xx, xy, yy, x, y = (
            torch.as_tensor(total) / self.count
            for total in (self._xx, self._xy, self._yy, self._x, self._y)
        )
        if not (torch.isfinite(xx).all() and torch.isfinite(xy).all()):
            raise RunError("calibration met NaN or infinity: is the network sound on this data?")
        if self.layer.bias is None:
            return Moments(xx, xy, yy, torch.zeros_like(x), torch.zeros_like(y))
        xx = xx - x[..., :, None] * x[..., None, :]
        xy = xy - x[..., :, None] * y[..., None, :]
        return Moments(xx, xy, yy - y.square(), x, y)


def unfolded(layer: PrunableModule, x: Tensor, wanted: Sample) -> Iterator[Tensor]:
    """Yield chunks of X, float64 `[g, P, p]`: what each sampled output position multiplies."""
    groups = _groups(layer)
    if isinstance(layer, nn.Linear):
        rows = x.reshape(1, -1, x.shape[-1])
        for chunk in torch.split(wanted.positions, CHUNK):
            yield rows[:, chunk].double()
        return
    x = _padded(layer, x)
    channels_last = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    # One more row of zeros is what a tap outside a transposed convolution's input reads.
    table = torch.cat([channels_last, channels_last.new_zeros(1, x.shape[1])])
    for chunk in torch.split(wanted.positions, CHUNK):
        taps = _taps(layer, x, wanted.size, chunk)  # [P, K]
        rows = table[taps].reshape(*taps.shape, groups, -1)
        yield rows.permute(2, 0, 1, 3).reshape(groups, len(chunk), -1).double()


def _taps(
    layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, size: tuple[int, int], positions: Tensor
) -> Tensor:
    """Return, per output position and kernel offset, the row of the (padded) input it reads."""
    batch, _, height, width = x.shape
    image, pixel = positions // (size[0] * size[1]), positions % (size[0] * size[1])
    top, top_in = _reads(layer, 0, pixel // size[1], height)
    left, left_in = _reads(layer, 1, pixel % size[1], width)
    rows = (image[:, None, None] * height + top[:, :, None]) * width + left[:, None, :]
    inside = top_in[:, :, None] & left_in[:, None, :]
    return torch.where(inside, rows, batch * height * width).flatten(1)


def _reads(
    layer: nn.Conv2d | nn.ConvTranspose2d, axis: int, place: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Return the input coordinates `[P, k]` read along `axis`, and whether they exist."""
    stride = int(layer.stride[axis])
    offsets = torch.arange(layer.kernel_size[axis], device=place.device) * int(layer.dilation[axis])
    if isinstance(layer, nn.Conv2d):
        coordinates = place[:, None] * stride + offsets
        return coordinates, torch.ones_like(coordinates, dtype=torch.bool)
    # Transposed: out = in * stride - padding + offset, so only some offsets hit an input.
    spread = place[:, None] + int(layer.padding[axis]) - offsets
    coordinates = spread.div(stride, rounding_mode="floor")
    return coordinates, (spread % stride == 0) & (coordinates >= 0) & (coordinates < length)


def _padded(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> Tensor:
    if isinstance(layer, nn.ConvTranspose2d):
        return x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)


def _groups(layer: PrunableModule) -> int:
    return 1 if isinstance(layer, nn.Linear) else layer.groups
