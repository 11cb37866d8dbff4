"""Input sizes that a network accepts: measured by trying, then met by padding and cropping.

Most networks take images of any size. Some want multiples of a number (a pixel unshuffle, a U-Net,
attention in windows), a least size or squares, and say so only by an exception or by a result of
another size. The rule of a network is measured after its first refusal, on small noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from thinlens.errors import RunError, UsageError
from thinlens.images.tiles import round_up
from thinlens.models.output import select_output
from thinlens.models.tile_position import tile_positions
from thinlens.restoration.failures import needs_more_inputs, out_of_memory, refusal

Forward = Callable[[Tensor], Any]
"""A network: maps `[B, C, h, w]` to an image, or to several in a list, a tuple or a dict."""

TRIAL_SIDE = 64
"""Least side in pixels of the noise on which multiples are tried, where two of them fit."""

CONFIRMED_SIDE = 16
"""Side in pixels below which the scale of an enlarged result is confirmed on larger noise: a
network that rounds sizes up returns 8x8 for 4x4 and enlarges nothing."""

FACTORS = (1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
"""Multiples of a number that are tried: no multiple of another number in `MULTIPLES`."""

MULTIPLES = (
    *(1, 2, 4, 8, 16, 32, 64, 128),
    *(3, 5, 6, 7, 9, 10, 12, 14, 15, 20, 24, 28, 30, 36, 40, 48, 56, 60, 96),
)
"""Numbers of which sides may have to be multiples, in the order in which they are tried."""


@dataclass(frozen=True)
class SizeRule:
    """The input sizes that a network accepts.

    >>> SizeRule(multiple=8, minimum=16).accepted(9, 30)
    (16, 32)
    """

    multiple: int = 1
    """Sides are multiples of it."""
    minimum: int = 1
    """Least side in pixels."""
    square: bool = False
    """Whether height and width are equal."""

    def accepted(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest accepted size that holds an image."""
        if self.square:
            height = width = max(height, width)
        sides = (round_up(max(side, self.minimum), self.multiple) for side in (height, width))
        rows, columns = sides
        return rows, columns


@dataclass
class _Sizes:
    """The sizes of one network."""

    rule: SizeRule
    scale: int | None = None
    """Side of the result over that of the input; None: no image was restored yet."""
    measured: bool = False
    """Whether the rule was measured: after a refusal."""


_sizes: WeakKeyDictionary[Any, _Sizes] = WeakKeyDictionary()
"""By network, for as long as it exists: a rule is measured once."""


def run_at_any_size(network: Forward, images: Tensor) -> Tensor:
    """Map `[B, C, h, w]` to `[B, C', s h, s w]` by a network that may accept other sizes only.

    Images are padded by reflection below and on the right to a size that the network accepts, and
    the result is cropped; `s` is a whole number. Of several outputs the last is the result.
    Raises `UsageError` with the network's own reason where no size helps.

    >>> halves = torch.nn.Sequential(torch.nn.PixelUnshuffle(2), torch.nn.PixelShuffle(2))
    >>> run_at_any_size(halves, torch.rand(1, 3, 7, 9)).shape
    torch.Size([1, 3, 7, 9])
    """
    sizes = _sizes_of(network)
    result = _run(network, sizes, images)
    if isinstance(result, UsageError) and not sizes.measured:
        sizes.measured = True
        # The module of an engine: it refuses sizes, but no operations.
        measured = measure_size_rule(getattr(network, "module", network), images)
        if measured is None:
            raise result
        sizes.rule, sizes.scale = measured
        result = _run(network, sizes, images)
    if isinstance(result, UsageError):
        raise result
    return result


def measure_size_rule(network: Forward, like: Tensor) -> tuple[SizeRule, int] | None:
    """Return the sizes that a network accepts, and its scale; None if it accepts none of those.

    Sizes are tried on noise with the channels, type and device of `like` `[B, C, h, w]`.

    >>> measure_size_rule(torch.nn.PixelUnshuffle(2), torch.rand(1, 3, 1, 1)) is None
    True
    >>> halves = torch.nn.Sequential(torch.nn.PixelUnshuffle(6), torch.nn.PixelShuffle(6))
    >>> measure_size_rule(halves, torch.rand(1, 1, 1, 1))
    (SizeRule(multiple=6, minimum=6, square=False), 1)
    """
    for square in (False, True):
        for multiple in MULTIPLES:
            least = -(-TRIAL_SIDE // multiple)
            first, second = [factor for factor in FACTORS if factor >= least][:2]
            size = (multiple * (second if square else first), multiple * second)
            scale = _scale_at(network, like, size)
            if scale is not None:
                minimum = _minimum(network, like, multiple, scale)
                return SizeRule(multiple, minimum, square), scale
    return None


def size_rule(network: Forward) -> SizeRule:
    """Return the rule by which a network is run: its own, or the one measured after a refusal."""
    return _sizes_of(network).rule


def pad_to(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad images `[..., h, w]` below and on the right to `size` by reflection, as often as needed.

    >>> pad_to(torch.arange(3.0).view(1, 1, 1, 3), (1, 7))[0, 0]
    tensor([[0., 1., 2., 1., 0., 1., 2.]])
    """
    for axis, side in ((-2, size[0]), (-1, size[1])):
        length = images.shape[axis]
        if side > length:
            indices = torch.arange(side, device=images.device) % max(2 * length - 2, 1)
            indices = torch.where(indices < length, indices, 2 * length - 2 - indices)
            images = images.index_select(axis, indices)
    return images


def _sizes_of(network: Forward) -> _Sizes:
    """Return what is stored for a network; at first the rule that it states itself."""
    try:
        return _sizes.setdefault(network, _Sizes(_stated_rule(network)))
    except TypeError:  # a callable without hash or weak references is measured at each failure
        return _Sizes(_stated_rule(network))


def _stated_rule(network: Forward) -> SizeRule:
    """Read `size_requirements` of a network (spandrel's), or of the module that an engine runs."""
    module = getattr(network, "module", network)
    stated = getattr(module, "size_requirements", None)
    return SizeRule(
        int(getattr(stated, "multiple_of", 1)),
        max(1, int(getattr(stated, "minimum", 1))),
        bool(getattr(stated, "square", False)),
    )


def _run(network: Forward, sizes: _Sizes, images: Tensor) -> Tensor | UsageError:
    """Run padded images and crop the result; return the reason if the size is not accepted."""
    height, width = images.shape[-2:]
    padded = pad_to(images, sizes.rule.accepted(height, width))
    output = _attempt(network, padded)
    if isinstance(output, UsageError):
        return output
    scale = _scale(output, padded)
    if (
        sizes.scale is None
        and scale is not None
        and scale > 1
        and max(height, width) < CONFIRMED_SIDE
    ):
        scale = scale if _is_confirmed(network, padded, scale) else None
    if scale is None or scale != (sizes.scale or scale):
        (rows, columns), (top, across) = output.shape[-2:], padded.shape[-2:]
        return UsageError(
            f"the network returns {columns}x{rows} for an image of {across}x{top}: wanted an image "
            "of the input's size or of a multiple of it, so layers that pad"
        )
    sizes.scale = scale
    return output[..., : height * scale, : width * scale]


def _attempt(network: Forward, images: Tensor) -> Tensor | UsageError:
    """Run a network; return the image, or the reason why it did not run on this size.

    Reasons that another size would not remove are raised, as is lack of memory.
    """
    try:
        output = network(images)
    except Exception as error:  # whatever a module's code raises
        if out_of_memory(error) or isinstance(error, RunError):
            raise
        reason = refusal(error, images)
        if needs_more_inputs(error):
            raise reason from error
        reason.__cause__ = error
        return reason
    image = select_output(output)
    if image.ndim != images.ndim:
        raise UsageError("the network returns no image: wanted a network that restores images")
    return image


def _scale(output: Tensor, images: Tensor) -> int | None:
    """Return how many times larger a result is; None unless that is a whole number."""
    height, width = images.shape[-2:]
    scale = output.shape[-1] // width
    fits = scale > 0 and tuple(output.shape[-2:]) == (height * scale, width * scale)
    return scale if fits else None


def _scale_at(network: Forward, like: Tensor, size: tuple[int, int]) -> int | None:
    """Return the scale on noise of `size`; None if the network does not accept it."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, like.shape[1], *size, generator=generator).to(like)
    with tile_positions(()):
        output = _attempt(network, noise)
    return None if isinstance(output, UsageError) else _scale(output, noise)


def _is_confirmed(network: Forward, like: Tensor, scale: int) -> bool:
    """Return whether larger noise is enlarged as much, unless it does not fit into memory."""
    try:
        return _scale_at(network, like, (TRIAL_SIDE, TRIAL_SIDE)) == scale
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return True


def _minimum(network: Forward, like: Tensor, multiple: int, scale: int) -> int:
    """Return the least side of those tried: `multiple`, twice that, and so on."""
    side = multiple
    while side < TRIAL_SIDE and _scale_at(network, like, (side, side)) != scale:
        side *= 2
    return side
