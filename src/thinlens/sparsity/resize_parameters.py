"""Replacement of a network's parameters by smaller tensors, with its layers' sizes updated."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def resize_parameters(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put `tensors`, by state-dict name, in place of the parameters and buffers of `module`.

    A parameter that layers share stays shared. Convolutions, linear layers and norms are updated
    to the sizes of their tensors; nothing checks that layers fit each other.

    >>> import torch
    >>> layer = nn.Conv2d(8, 4, 3)
    >>> resize_parameters(layer, {"weight": torch.zeros(2, 8, 3, 3), "bias": torch.zeros(2)})
    >>> layer
    Conv2d(8, 2, kernel_size=(3, 3), stride=(1, 1))
    """
    targets = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    for name, tensor in tensors.items():
        targets[name].grad = None
        targets[name].data = tensor
    for layer in module.modules():
        _update_sizes(layer)


def _update_sizes(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        rows, columns = layer.weight.shape[:2]
        transposed = isinstance(layer, nn.ConvTranspose2d)
        if 1 < layer.groups == layer.in_channels:  # depthwise: a group for every input channel
            layer.groups = rows if transposed else rows * layer.groups // layer.out_channels
        columns *= layer.groups
        layer.in_channels, layer.out_channels = (rows, columns) if transposed else (columns, rows)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _NormBase):
        sized = layer.weight if layer.weight is not None else layer.running_mean
        if sized is not None:
            layer.num_features = sized.shape[0]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
