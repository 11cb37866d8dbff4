"""Under bf16 autocast only the output layer is computed in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thinlens.models import MODELS, create
from thinlens.training.float32_output import Float32Output
from thinlens.training.loop import Settings, Trainer
from thinlens.training.objective import PlainObjective

SR = [name for name, entry in MODELS.items() if entry.task == "sr"]


def tiny(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return create(name, **MODELS[name].tiny).eval(), torch.rand(1, 3, 16, 16)


@pytest.mark.parametrize("name", SR)
def test_only_the_layer_that_makes_the_image_is_float32(name: str) -> None:
    """The image has more values than bfloat16 has between 0 and 1; what comes before is bf16."""
    network, image = tiny(name)
    kinds: list[torch.dtype] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: kinds.append(output.dtype))
    with Float32Output() as float32_output, torch.autocast("cpu", torch.bfloat16):
        float32_output.attach(network, image.shape)
        kinds.clear()
        output = network(image)
        assert torch.is_autocast_enabled("cpu")
    assert output.dtype == torch.float32
    assert kinds[-1] == torch.float32
    assert set(kinds[:-1]) == {torch.bfloat16}


def test_it_ends_with_the_context() -> None:
    network, image = tiny("rfdn")
    before = network(image)
    with Float32Output() as float32_output:
        float32_output.attach(network, image.shape)
        assert torch.equal(network(image), before)  # without autocast nothing changes
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image).dtype == torch.bfloat16


def test_autocast_stays_on_after_a_failing_layer() -> None:
    network, image = tiny("edsr")
    last = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][-1]
    with Float32Output() as float32_output, torch.autocast("cpu", torch.bfloat16):
        float32_output.attach(network, image.shape)
        last.weight = nn.Parameter(torch.zeros(1, 1, 1, 1))
        with pytest.raises(RuntimeError):
            network(image)
        assert torch.is_autocast_enabled("cpu")


class Pairs:
    """The same pair at every step."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, 16, 16, generator=generator)
        return image, torch.rand(1, 3, 64, 64, generator=generator)


class Watched(PlainObjective):
    kinds: tuple[torch.dtype, ...] = ()

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        output = network(batch[0])
        self.kinds += (output.dtype,)
        return self.task_loss(output, batch[1])


def test_training_in_bf16_has_a_float32_output() -> None:
    network, _ = tiny("rfdn")
    objective = Watched(network)
    Trainer(Settings(steps=2, precision="bf16")).fit(objective, Pairs())
    assert objective.kinds == (torch.float32,) * 2
    assert not any(layer._forward_pre_hooks for layer in network.modules())
