"""DnCNN: a plain network that predicts the noise in an image (Zhang et al., TIP 2017).

`dncnn-17` is the non-blind one with batch norm merged into the convolutions, as KAIR releases it;
`dncnn-20` (grey) and `dncnn-20-rgb` are the blind ones with batch norm that ClassPruning prunes.
Published weights of the first layout (KAIR) and of the second without biases (SaoYan) load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.models.entry import ModelEntry, StateDict
from thinlens.models.layers import check_positive, conv

_NORM_EPSILON = 1e-5
"""What batch norm adds to a variance: torch's default, with which the weights were trained."""

_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
"""Tensors of a batch norm, in the order of `_merge`."""


@dataclass(frozen=True)
class Config:
    """Which DnCNN."""

    depth: int = 17
    """Convolutions, the first and the last included."""
    width: int = 64
    channels: int = 1
    """Image channels: 1 (grey) or 3 (RGB)."""
    batch_norm: bool = False
    """Whether a batch norm follows every convolution but the first and the last."""

    def __post_init__(self) -> None:
        check_positive(width=self.width, channels=self.channels)
        if self.depth < 2:
            raise UsageError(f"depth {self.depth}: wanted a first and a last convolution")


class DnCNN(nn.Module):
    """Clean a noisy image `[B, channels, H, W]` in [0, 1]: the image less its predicted noise."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        steps: list[nn.Module] = [conv(config.channels, width, 3), nn.ReLU()]
        for _ in range(config.depth - 2):
            steps.append(conv(width, width, 3))
            if config.batch_norm:
                steps.append(nn.BatchNorm2d(width, eps=_NORM_EPSILON))
            steps.append(nn.ReLU())
        self.model = nn.Sequential(*steps, conv(width, config.channels, 3))

    def forward(self, image: Tensor) -> Tensor:
        noise: Tensor = self.model(image)
        return image - noise


def convert_with_norms(state: StateDict) -> StateDict:
    """Rename a published state dict with batch norms; convolutions without biases get zeros.

    Handles KAIR's and SaoYan's names.
    """
    state = {_layer_name(name): tensor for name, tensor in state.items()}
    for name, tensor in list(state.items()):
        stem = name.rpartition(".")[0]
        if tensor.dim() == 4:
            state.setdefault(f"{stem}.bias", tensor.new_zeros(tensor.shape[0]))
        if name.endswith(".running_var"):
            state.setdefault(f"{stem}.num_batches_tracked", torch.tensor(0))
    return state


def convert_and_merge_norms(state: StateDict) -> StateDict:
    """Rename a published state dict and merge its batch norms, if any, into its convolutions.

    Tensors that a DnCNN has not are passed on, so that the loader refuses them.
    """
    rest = convert_with_norms(state)
    matches = (re.fullmatch(r"model\.(\d+)\.weight", n) for n, t in rest.items() if t.dim() == 4)
    merged = {}
    for position, index in enumerate(sorted(int(match[1]) for match in matches if match)):
        weight, bias = rest.pop(f"model.{index}.weight"), rest.pop(f"model.{index}.bias")
        norm = [f"model.{index + 1}.{tensor}" for tensor in _NORM_TENSORS]
        if rest.keys() >= set(norm):
            weight, bias = _merge(weight, bias, [rest.pop(name) for name in norm])
            del rest[f"model.{index + 1}.num_batches_tracked"]
        # without norms, every second layer is a ReLU
        merged[f"model.{2 * position}.weight"] = weight
        merged[f"model.{2 * position}.bias"] = bias
    return {**merged, **rest}


def _merge(weight: Tensor, bias: Tensor, norm: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Fold gamma (x - mean) / sqrt(variance + epsilon) + beta into the convolution before it."""
    gamma, beta, mean, variance = norm
    factor = gamma.double() / (variance.double() + _NORM_EPSILON).sqrt()
    shifted = (bias.double() - mean.double()) * factor + beta.double()
    return (weight.double() * factor[:, None, None, None]).to(weight.dtype), shifted.to(bias.dtype)


def _layer_name(name: str) -> str:
    """Drop a data-parallel prefix and name the layers `model`."""
    return re.sub(r"^(module\.)?(dncnn|model)\.", "model.", name)


def detect_options(state: StateDict) -> dict[str, int] | None:
    """Read depth, width and channels off a converted state dict; None if it is no DnCNN's."""
    names = [n for n in state if re.fullmatch(r"model\.\d+\.weight", n)]
    depth = sum(state[name].dim() == 4 for name in names)
    if "model.0.weight" not in state or state["model.0.weight"].dim() != 4 or depth < 2:
        return None
    width, channels = state["model.0.weight"].shape[:2]
    return {"depth": depth, "width": width, "channels": channels}


TINY = {"depth": 4, "width": 8}

NETWORKS = {
    "dncnn-17": ModelEntry(
        DnCNN,
        Config(),
        "denoise",
        channels=1,
        tiny=TINY,
        convert_state=convert_and_merge_norms,
        detect=detect_options,
    ),
    "dncnn-20": ModelEntry(
        DnCNN,
        Config(depth=20, batch_norm=True),
        "denoise",
        channels=1,
        tiny=TINY,
        convert_state=convert_with_norms,
        detect=detect_options,
    ),
    "dncnn-20-rgb": ModelEntry(
        DnCNN,
        Config(depth=20, batch_norm=True, channels=3),
        "denoise",
        tiny=TINY,
        convert_state=convert_with_norms,
        detect=detect_options,
    ),
}
