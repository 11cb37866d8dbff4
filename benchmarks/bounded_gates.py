"""Ceilings for the gates of an RFDN's attention, with the same results on photographs.

    python benchmarks/bounded_gates.py rfdn-x4 --data DIR --out OUT [--ratio 1.2]

The attention of an RFDN multiplies every channel by sigmoid(z). Trained on photographs, the shipped
rfdn-x4 has gates of 0.01 to 0.1 there and features a hundred times as large. Noise opens the gates,
block after block, and the output explodes. Here sigmoid(z) becomes s sigmoid(a z + b) for every
channel: s a little above the largest gate on the images of DIR, a and b by least squares. It takes
no new operation: s goes into the convolution before the attention, 1/s into the first one within,
a and b into the last. Block by block, each on the results of the blocks before it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import thinlens
from thinlens.api import load_checkpoint
from thinlens.images.folders import image_paths
from thinlens.images.reading import read_image
from thinlens.tasks import make_task

EVERY_IMAGE, EVERY_POSITION = 8, 5
"""Every so many images and positions are taken."""

RATIO = 1.2
"""Ceiling over the gate that all but a thousandth of the positions stay below."""

RARE = 0.999
MOST_OPEN, WIDEST = 0.9, 0.98
"""Shares of a ceiling: that the largest gate may reach, and to which targets are cut."""


@torch.no_grad()
def gate_inputs(network: nn.Module, block: str, images: Sequence[Tensor]) -> Tensor:
    """Return z of a block's gates, `[channels, positions]`."""
    values: list[Tensor] = []
    last = network.get_submodule(f"{block}.esa.conv4")
    hook = last.register_forward_hook(
        lambda module, image, z: values.append(z[0].flatten(1)[:, ::EVERY_POSITION])
    )
    for image in images:
        network(image)
    hook.remove()
    return torch.cat(values, 1).double()


@torch.no_grad()
def bound(network: nn.Module, block: str, images: Sequence[Tensor], ratio: float) -> Tensor:
    """Put ceilings on the gates of a block; return them by channel."""
    z = gate_inputs(network, block, images)
    gate = z.sigmoid()
    usual = torch.quantile(gate[:, ::2], RARE, dim=1, keepdim=True)
    ceiling = torch.maximum(ratio * usual, gate.amax(1, keepdim=True) / MOST_OPEN).clamp(max=0.999)
    share = (gate / ceiling).clamp(max=WIDEST)
    target = share.logit()
    weight = (gate * (1 - share)).square()  # of an error of the target, seen in the gate
    total = weight.sum(1, keepdim=True)
    z_mean = (weight * z).sum(1, keepdim=True) / total
    target_mean = (weight * target).sum(1, keepdim=True) / total
    covariance = (weight * (z - z_mean) * (target - target_mean)).sum(1)
    slope = covariance / (weight * (z - z_mean).square()).sum(1)
    offset = target_mean[:, 0] - slope * z_mean[:, 0]

    before, within, last = (
        network.get_submodule(f"{block}.{name}") for name in ("c5", "esa.conv1", "esa.conv4")
    )
    scale = ceiling[:, 0].float()
    before.weight.mul_(scale[:, None, None, None])
    before.bias.mul_(scale)
    within.weight.div_(scale[None, :, None, None])
    last.bias.copy_(slope * last.bias.double() + offset)
    last.weight.mul_(slope.float()[:, None, None, None])
    return scale


def main() -> None:
    """Write the network with ceilings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("--data", type=Path, required=True, help="photographs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ratio", type=float, default=RATIO)
    options = parser.parse_args()
    network, task = load_checkpoint(options.network), make_task("sr", scale=4)
    images = [
        task.downscale(task.align(read_image(path, channels=3))).float()[None] / 255
        for path in image_paths(options.data)[::EVERY_IMAGE]
    ]
    for index in range(1, network.module.config.blocks + 1):
        ceilings = bound(network.module, f"B{index}", images, options.ratio)
        print(f"B{index}: ceilings {float(ceilings.min()):.3f} to {float(ceilings.max()):.3f}")
    print(f"{options.out}: {thinlens.save(options.out, network, store='fp16'):,} bytes")


if __name__ == "__main__":
    main()
