"""A published network that spandrel knows, made thin by five lines.

pip install 'thinlens[demo,spandrel]'
python examples/spandrel_network.py FILE.pth    # the architecture is read from the file
python examples/spandrel_network.py             # SPAN x2 with random weights
"""

from __future__ import annotations

import sys

import torch
from torch import nn

import thinlens
from thinlens.checkpoints.spandrel_networks import build_published
from thinlens.experiments.photographs import skimage_inputs
from thinlens.sparsity.pattern import Pruned


def network_of(file: str | None, channels: int) -> nn.Module:
    """Return the network of a file of weights, or SPAN with random ones."""
    if file is not None:
        return thinlens.load(file).module
    options = {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": channels, "upscale": 2}
    return build_published("SPAN", options).eval()


def main(file: str | None = None, channels: int = 48) -> Pruned:
    """Prune a published network to a quarter of its multiply-adds, without ground truth."""
    torch.manual_seed(0)
    network = network_of(file, channels)
    images = skimage_inputs(network, {})  # or data="FOLDER": the dense network is the teacher

    thin = thinlens.prune(network, budget="1/4", data=images)
    fast = thinlens.compile(thin)  # SPAN runs whole in the engine, others in turns with torch
    image = torch.rand(1, 3, 24, 32)
    print(thin)
    print(f"error to torch: {(fast(image) - thin.module(image)).abs().max():.1e}")
    return thin


if __name__ == "__main__":
    main(*sys.argv[1:2])
