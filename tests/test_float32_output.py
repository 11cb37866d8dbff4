from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thinlens.models import MODELS, create
from thinlens.training.exact_image import ExactImage
from thinlens.training.loop import Settings, Trainer
from thinlens.training.objective import Plain

SR = [name for name, entry in MODELS.items() if entry.task == "sr"]


def tiny(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return create(name, **MODELS[name].tiny).eval(), torch.rand(1, 3, 16, 16)


@pytest.mark.parametrize("name", SR)
def test_only_the_layer_that_makes_the_image_is_exact(name: str) -> None:
    """The image has more values than bfloat16 has between 0 and 1; what comes before is bf16."""
    network, image = tiny(name)
    kinds: list[torch.dtype] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: kinds.append(output.dtype))
    with ExactImage() as exact, torch.autocast("cpu", torch.bfloat16):
        exact.hold(network, image.shape)
        kinds.clear()
        output = network(image)
        assert torch.is_autocast_enabled("cpu")
    assert output.dtype == torch.float32
    assert kinds[-1] == torch.float32
    assert set(kinds[:-1]) == {torch.bfloat16}


def test_it_is_gone_when_it_is_left() -> None:
    network, image = tiny("rfdn")
    before = network(image)
    with ExactImage() as exact:
        exact.hold(network, image.shape)
        assert torch.equal(network(image), before)  # without autocast nothing changes
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image).dtype == torch.bfloat16


def test_a_layer_that_fails_leaves_autocast_on() -> None:
    network, image = tiny("edsr")
    last = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][-1]
    with ExactImage() as exact, torch.autocast("cpu", torch.bfloat16):
        exact.hold(network, image.shape)
        last.weight = nn.Parameter(torch.zeros(1, 1, 1, 1))
        with pytest.raises(RuntimeError):
            network(image)
        assert torch.is_autocast_enabled("cpu")


class Pairs:
    """The same pair for ever; it notes nothing."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, 16, 16, generator=generator)
        return image, torch.rand(1, 3, 64, 64, generator=generator)


class Watched(Plain):
    kinds: tuple[torch.dtype, ...] = ()

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        output = network(batch[0])
        self.kinds += (output.dtype,)
        return self.task_loss(output, batch[1])


def test_training_in_bf16_sees_an_exact_image() -> None:
    network, _ = tiny("rfdn")
    objective = Watched(network)
    Trainer(Settings(steps=2, precision="bf16")).fit(objective, Pairs())
    assert objective.kinds == (torch.float32,) * 2
    assert not any(layer._forward_pre_hooks for layer in network.modules())
