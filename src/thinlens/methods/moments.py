"""Second moments of layers: collect Gram matrices of unfolded inputs and target outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import RunError, UsageError
from thinlens.sparsity.layout import PrunableModule
from thinlens.sparsity.masking import prunable_layer
from thinlens.training.objective import TrainingData, input_batch

UNFOLD_CHUNK = 4096
"""Output positions unfolded at a time, which bounds the memory of an unfolded input."""

LARGE_COLUMNS = 800
"""Columns from which on products are computed in single precision, and summed in double."""


def calibration_images(data: TrainingData, seed: int, pixels: int) -> Tensor:
    """Stack the first inputs of epoch 0 until they have `pixels` pixels: `[B, C, h, w]`.

    Inputs of different sizes are cropped to the smallest height and width, at the top left.
    """
    images: list[Tensor] = []
    seen = 0
    while seen < pixels:
        batch = input_batch(data, seed, 0, len(images))
        if not batch.numel():
            raise UsageError("the calibration data holds an empty batch")
        images.append(batch)
        seen += batch.shape[0] * batch.shape[-2] * batch.shape[-1]
    height = min(x.shape[-2] for x in images)
    width = min(x.shape[-1] for x in images)
    return torch.cat([x[..., :height, :width] for x in images])


@dataclass(frozen=True)
class Sample:
    """Sampled output positions of one call of a layer, with the dense network's outputs there."""

    positions: Tensor
    """int64 `[P]`: indices into the flattened batch and spatial axes of the output."""
    size: tuple[int, int]
    """Height and width of the output; (1, 1) for a linear layer."""
    targets: Tensor
    """float32 `[P, c_out]`: the dense network's outputs before the activation."""


def sample(layer: PrunableModule, output: Tensor, max_positions: int, seed: int) -> Sample:
    """Draw at most `max_positions` output positions of `layer`, the same for the same seed."""
    linear = isinstance(layer, nn.Linear)
    rows = output if linear else output.permute(0, 2, 3, 1)
    count = rows.numel() // rows.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    if max_positions < count:
        positions = torch.randperm(count, generator=generator)[:max_positions].to(output.device)
    else:
        positions = torch.arange(count).to(output.device)
    size = (1, 1) if linear else (output.shape[-2], output.shape[-1])
    return Sample(positions, size, rows.reshape(count, -1)[positions].float())


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's unfolded inputs X and target outputs Y.

    The first axis is the convolution group; columns of X are in the canonical order
    (kh, kw, c_in / groups). For a layer with a bias X and Y are centred: the bias, which is
    `mean_y - mean_x w`, is eliminated from every problem and never penalised.
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
    positions: int = sys.maxsize
    """Output positions that entered."""

    def of_outputs(self, outputs: Tensor) -> Moments:
        """Return the moments of some outputs of every group, by their indices."""
        xy, yy, y = self.xy[..., outputs], self.yy[:, outputs], self.mean_y[:, outputs]
        return Moments(self.xx, xy, yy, self.mean_x, y, self.positions)

    def single(self) -> Moments:
        """Return the moments in single precision, for estimates."""
        xx, xy, yy = self.xx.float(), self.xy.float(), self.yy.float()
        return Moments(xx, xy, yy, self.mean_x.float(), self.mean_y.float(), self.positions)

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

    def add(self, x: Tensor, sample: Sample) -> None:
        """Add one call: the layer's whole input and the targets at sampled positions."""
        groups = convolution_groups(self.layer)
        start = 0
        for rows in unfolded(self.layer, x, sample):
            targets = sample.targets[start : start + rows.shape[1]].double()
            y = targets.reshape(len(targets), groups, -1).movedim(1, 0)
            self._xx = self._xx + rows.mT @ rows
            self._xy = self._xy + rows.mT @ y
            self._x, self._y = self._x + rows.sum(1), self._y + y.sum(1)
            self._yy = self._yy + y.square().sum(1)
            start += rows.shape[1]
        self.count += start

    def moments(self) -> Moments:
        """Return the means; raises `RunError` where an activation is not finite."""
        assert isinstance(self._xx, Tensor), "moments of no call"
        sums = (self._xx, self._xy, self._yy, self._x, self._y)
        return self._means(*(torch.as_tensor(total) / self.count for total in sums))

    def _means(self, xx: Tensor, xy: Tensor, yy: Tensor, x: Tensor, y: Tensor) -> Moments:
        """Return the moments, centred if the layer has a bias."""
        if not (torch.isfinite(xx).all() and torch.isfinite(xy).all()):
            raise RunError("calibration met NaN or infinity: is the network sound on this data?")
        if self.layer.bias is None:
            return Moments(xx, xy, yy, torch.zeros_like(x), torch.zeros_like(y), self.count)
        xx = xx - x[..., :, None] * x[..., None, :]
        xy = xy - x[..., :, None] * y[..., None, :]
        return Moments(xx, xy, yy - y.square(), x, y, self.count)


@contextmanager
def after_calls(
    network: nn.Module,
    names: Iterable[str],
    act: Callable[[str, PrunableModule, Tensor, Tensor], None],
) -> Iterator[None]:
    """Call `act(name, layer, input, output)` after every call of the named layers."""

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: act(name, layer, inputs[0], output)

    with ExitStack() as hooks:  # the handle of a torch hook removes it on exit
        for name in names:
            hooks.enter_context(prunable_layer(network, name).register_forward_hook(hook(name)))
        yield


@torch.no_grad()
def collect(
    network: nn.Module, names: Iterable[str], images: Tensor, max_positions: int, seed: int
) -> dict[str, Moments]:
    """Return the second moments of the named layers on `images`, by layer name.

    The network runs once, in evaluation mode; nothing of it changes. At most `max_positions`
    output positions of a call enter, drawn with `seed`.
    """
    sums = {name: MomentSums(prunable_layer(network, name)) for name in names}

    def add(name: str, layer: PrunableModule, x: Tensor, output: Tensor) -> None:
        sums[name].add(x, sample(layer, output, max_positions, seed))

    training = network.training
    try:
        with after_calls(network, sums, add):
            network.eval()(images)
    finally:
        network.train(training)
    return {name: total.moments() for name, total in sums.items()}


def unfolded(layer: PrunableModule, x: Tensor, sample: Sample) -> Iterator[Tensor]:
    """Yield chunks of X, float64 `[g, P, p]`: the input patch of each sampled output position."""
    for rows in input_rows(layer, x, sample):
        yield rows.double()


def input_rows(layer: PrunableModule, x: Tensor, sample: Sample) -> Iterator[Tensor]:
    """Yield chunks of X `[g, P, p]` in the dtype of `x`."""
    groups = convolution_groups(layer)
    if isinstance(layer, nn.Linear):
        rows = x.reshape(1, -1, x.shape[-1])
        for chunk in torch.split(sample.positions, UNFOLD_CHUNK):
            yield rows[:, chunk]
        return
    x = _padded(layer, x)
    channels_last = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    table = channels_last
    if isinstance(layer, nn.ConvTranspose2d):  # a row of zeros for taps outside its input
        table = torch.cat([channels_last, channels_last.new_zeros(1, x.shape[1])])
    for chunk in torch.split(sample.positions, UNFOLD_CHUNK):
        taps = _taps(layer, x, sample.size, chunk)  # [P, K]
        rows = table[taps].reshape(*taps.shape, groups, -1)
        yield rows.permute(2, 0, 1, 3).reshape(groups, len(chunk), -1)


def _taps(
    layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, size: tuple[int, int], positions: Tensor
) -> Tensor:
    """Return the row of the (padded) input for every output position and kernel offset."""
    batch, _, height, width = x.shape
    image, pixel = positions // (size[0] * size[1]), positions % (size[0] * size[1])
    y, y_valid = _coordinates(layer, 0, pixel // size[1], height)
    x_, x_valid = _coordinates(layer, 1, pixel % size[1], width)
    rows = (image[:, None, None] * height + y[:, :, None]) * width + x_[:, None, :]
    inside = y_valid[:, :, None] & x_valid[:, None, :]
    return torch.where(inside, rows, batch * height * width).flatten(1)


def _coordinates(
    layer: nn.Conv2d | nn.ConvTranspose2d, axis: int, output: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Return the input coordinates `[P, k]` along `axis` of output ones, and which are valid."""
    stride = int(layer.stride[axis])
    offsets = torch.arange(layer.kernel_size[axis], device=output.device) * int(
        layer.dilation[axis]
    )
    if isinstance(layer, nn.Conv2d):
        coordinates = output[:, None] * stride + offsets
        return coordinates, torch.ones_like(coordinates, dtype=torch.bool)
    # Transposed: out = in * stride - padding + offset, so only some offsets hit an input.
    spread = output[:, None] + int(layer.padding[axis]) - offsets
    coordinates = spread.div(stride, rounding_mode="floor")
    return coordinates, (spread % stride == 0) & (coordinates >= 0) & (coordinates < length)


def _padded(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> Tensor:
    if isinstance(layer, nn.ConvTranspose2d):
        return x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)


def convolution_groups(layer: PrunableModule) -> int:
    """Return the groups of a convolution; 1 for a linear layer."""
    return 1 if isinstance(layer, nn.Linear) else layer.groups
