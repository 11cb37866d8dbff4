"""SRN with a convolutional LSTM: deblurring from coarse to fine (Tao et al., CVPR 2018).

The form that ClassPruning prunes: 5x5 transposed convolutions, and one ConvLSTM at the bottleneck
whose state goes from scale to scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinlens.models.entry import ModelEntry
from thinlens.models.layers import (
    check_positive,
    conv,
    pad_to_multiple,
    residual_blocks,
    resize,
)
from thinlens.models.shape_options import ShapeOptions

_REDUCTIONS = (4, 2, 1)
"""Divisors of the resolutions at which the same weights restore the image, the coarsest first."""

_SIZE_MULTIPLE = 16
"""Heights and widths are padded to a multiple of this: two halvings at 1/4 of the resolution."""

_KERNEL = 5

LSTMState = tuple[Tensor, Tensor]
"""Hidden and cell state of the LSTM, `[B, 4 width, h, w]` each."""


@dataclass(frozen=True)
class Config:
    """Which SRN with an LSTM."""

    width: int = 32
    """Channels at full resolution; twice and four times as many at 1/2 and 1/4."""
    blocks: int = 3
    """Residual blocks at every resolution, of the encoder and of the decoder."""

    def __post_init__(self) -> None:
        check_positive(width=self.width, blocks=self.blocks)


class ConvLSTM(nn.Module):
    """One step of a convolutional LSTM: `c' = f c + i tanh(g)`, `h' = o tanh(c')`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv(2 * width, 4 * width, _KERNEL)

    def forward(self, x: Tensor, state: LSTMState) -> LSTMState:
        hidden, cell = state
        gates = self.conv(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
        keep_in, forget, out = (torch.sigmoid(gate) for gate in gates[:3])
        cell = forget * cell + keep_in * torch.tanh(gates[3])
        return out * torch.tanh(cell), cell


class SRNLSTM(nn.Module):
    """Sharpen an RGB image `[B, 3, H, W]` in [0, 1]; any H and W, edge-padded to multiples of 16.

    The input of every scale is the blurred image and the result of the scale before (zeros at the
    coarsest); only the finest result is returned.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        c, blocks = config.width, config.blocks
        self.encoder1 = _encoder_level(conv(6, c, _KERNEL), c, blocks)
        self.encoder2 = _encoder_level(conv(c, 2 * c, _KERNEL, stride=2), 2 * c, blocks)
        self.encoder3 = _encoder_level(conv(2 * c, 4 * c, _KERNEL, stride=2), 4 * c, blocks)
        self.lstm = ConvLSTM(4 * c)
        self.decoder3 = _decoder_level(4 * c, blocks)
        self.decoder2 = _decoder_level(2 * c, blocks)
        self.decoder1 = nn.Sequential(*residual_blocks(c, blocks, _KERNEL), conv(c, 3, _KERNEL))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        blurred = pad_to_multiple(image, _SIZE_MULTIPLE)
        sharp, state = torch.zeros_like(blurred), None
        for reduction in _REDUCTIONS:
            size = (blurred.shape[-2] // reduction, blurred.shape[-1] // reduction)
            image_at_scale, previous = resize(blurred, size), resize(sharp, size)
            sharp, state = self._at_scale(torch.cat([image_at_scale, previous], dim=1), state)
        return sharp[..., :height, :width]

    def _at_scale(self, x: Tensor, state: LSTMState | None) -> tuple[Tensor, LSTMState]:
        full = self.encoder1(x)
        half = self.encoder2(full)
        quarter = self.encoder3(half)
        if state is None:
            state = torch.zeros_like(quarter), torch.zeros_like(quarter)
        hidden, cell = (resize(tensor, quarter.shape[-2:]) for tensor in state)
        hidden, cell = self.lstm(quarter, (hidden, cell))
        x = self.decoder3(hidden) + half
        x = self.decoder2(x) + full
        return self.decoder1(x), (hidden, cell)


def _encoder_level(first: nn.Conv2d, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(first, nn.ReLU(), *residual_blocks(width, blocks, _KERNEL))


def _decoder_level(width: int, blocks: int) -> nn.Sequential:
    """Refine at one resolution, then double it and halve the channels."""
    double = nn.ConvTranspose2d(width, width // 2, _KERNEL, stride=2, padding=2, output_padding=1)
    return nn.Sequential(*residual_blocks(width, blocks, _KERNEL), double, nn.ReLU())


_DETECT = ShapeOptions(
    {"width": ("encoder1.0.weight", 0)},
    {"blocks": r"encoder1\.(\d+)\.body"},
    ("lstm.conv.weight",),
)

NETWORKS = {
    "srn-lstm": ModelEntry(
        SRNLSTM, Config(), "deblur", tiny={"width": 1, "blocks": 1}, detect=_DETECT
    ),
}
