"""Published families of image-restoration networks, as spandrel builds them, with random weights.

Hyperparameters are those of the published configurations (or of the file that people use most).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from thinlens.checkpoints.spandrel_package import architectures


@dataclass(frozen=True)
class Family:
    """One network of another package."""

    name: str
    module: str
    """The module that defines it, below the package `spandrel.architectures`."""
    kind: str
    """The name of its class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 3
    package: str = "spandrel"

    def build(self, seed: int = 0) -> nn.Module:
        """Build the network in evaluation mode with random weights."""
        architectures()  # imports spandrel, where torchvision is absent too
        module = importlib.import_module(f"{self.package}.architectures.{self.module}")
        torch.manual_seed(seed)
        network: nn.Module = getattr(module, self.kind)(**self.options)
        return network.eval()


SWIN = {"img_size": 64, "window_size": 8, "mlp_ratio": 2, "upscale": 4}

FAMILIES = (
    Family("SRVGGNetCompact 64x16 x4", "Compact", "Compact"),
    Family("RRDBNet 23 x4", "ESRGAN", "ESRGAN"),
    Family("RRDBNet 6 x4", "ESRGAN", "ESRGAN", {"num_blocks": 6}),
    Family("SPAN 48 x4", "SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3}),
    Family("RealCUGAN x2", "RealCUGAN", "UpCunet2x"),
    Family(
        "NAFNet width 32",
        "NAFNet",
        "NAFNet",
        {
            "width": 32,
            "middle_blk_num": 12,
            "enc_blk_nums": [2, 2, 4, 8],
            "dec_blk_nums": [2, 2, 2, 2],
        },
    ),
    Family("Restormer", "Restormer", "Restormer", package="spandrel_extra_arches"),
    Family("PLKSR 64 x4", "PLKSR", "PLKSR"),
    Family("RealPLKSR 64 x4", "PLKSR", "RealPLKSR"),
    Family(
        "MixDehazeNet-s",
        "MixDehazeNet",
        "MixDehazeNet",
        {"embed_dims": [24, 48, 96, 48, 24], "depths": [2, 2, 4, 2, 2]},
    ),
    Family("DRUNet colour", "DRUNet", "DRUNet", {"in_nc": 4, "out_nc": 3}, channels=4),
    Family("RCAN x4", "RCAN", "RCAN"),
    Family("SAFMN 36 x4", "SAFMN", "SAFMN", {"dim": 36}),
    Family("MoSR x4", "MoSR", "MoSR"),
    Family("DnCNN-17 grey", "DnCNN", "DnCNN", {"act_mode": "R"}, channels=1),
    Family(
        "SwinIR-M x4",
        "SwinIR",
        "SwinIR",
        {
            **SWIN,
            "embed_dim": 180,
            "depths": [6] * 6,
            "num_heads": [6] * 6,
            "upsampler": "pixelshuffle",
        },
    ),
    Family(
        "SwinIR-S x4",
        "SwinIR",
        "SwinIR",
        {
            **SWIN,
            "embed_dim": 60,
            "depths": [6] * 4,
            "num_heads": [6] * 4,
            "upsampler": "pixelshuffledirect",
        },
    ),
    Family(
        "SwinIR-L x4",
        "SwinIR",
        "SwinIR",
        {
            **SWIN,
            "embed_dim": 240,
            "depths": [6] * 9,
            "num_heads": [8] * 9,
            "upsampler": "nearest+conv",
            "resi_connection": "3conv",
        },
    ),
    Family(
        "DAT-light x4",
        "DAT",
        "DAT",
        {
            "embed_dim": 60,
            "split_size": [8, 32],
            "depth": [18],
            "num_heads": [6],
            "expansion_factor": 2,
            "upscale": 4,
            "resi_connection": "3conv",
            "upsampler": "pixelshuffledirect",
        },
    ),
    Family(
        "DAT-S x4",
        "DAT",
        "DAT",
        {
            "embed_dim": 180,
            "split_size": [8, 16],
            "depth": [6] * 6,
            "num_heads": [6] * 6,
            "expansion_factor": 2,
            "upscale": 4,
        },
    ),
    Family(
        "HAT-S x4",
        "HAT",
        "HAT",
        {
            "embed_dim": 144,
            "depths": [6] * 6,
            "num_heads": [6] * 6,
            "window_size": 16,
            "compress_ratio": 24,
            "squeeze_factor": 24,
            "mlp_ratio": 2,
            "upscale": 4,
        },
    ),
    Family("OmniSR x4", "OmniSR", "OmniSR", {"res_num": 5}),
    Family(
        "RGT-S x4",
        "RGT",
        "RGT",
        {
            "embed_dim": 180,
            "depth": [6] * 6,
            "num_heads": [6] * 6,
            "mlp_ratio": 2,
            "upscale": 4,
            "split_size": [8, 32],
        },
    ),
    Family(
        "DRCT x4",
        "DRCT",
        "DRCT",
        {"upscale": 4, "upsampler": "pixelshuffle", "window_size": 16, "mlp_ratio": 2},
    ),
    Family("SCUNet", "SCUNet", "SCUNet"),
    Family(
        "Swin2SR x4",
        "Swin2SR",
        "Swin2SR",
        {
            **SWIN,
            "embed_dim": 180,
            "depths": [6] * 6,
            "num_heads": [6] * 6,
            "upsampler": "pixelshuffle",
        },
    ),
)
"""The 26 families, from convolutions alone to transformers."""
