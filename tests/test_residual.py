"""A layer is residual exactly where the network runs on without it; there N may be 0."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from small_networks import RandomData, crossed
from thinlens.api import load, save
from thinlens.engine.compilation import compile as compile_module
from thinlens.experiments.networks import default_task
from thinlens.methods.sls.method import Sls
from thinlens.models import MODELS, create
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.residual import residual_layers
from thinlens.training.loop import Settings, Trainer

EXAMPLE = (1, 3, 16, 16)


def test_the_layers_of_known_networks() -> None:
    edsr = create("edsr", scale=2, width=4, blocks=2)
    assert residual_layers(edsr, EXAMPLE) == {"body.0.body.2", "body.1.body.2", "body.2"}
    rfdn = residual_layers(create("rfdn", scale=4), EXAMPLE)
    assert rfdn == {f"B{b}.c{c}_r" for b in range(1, 5) for c in range(1, 4)} | {"LR_conv"}
    assert residual_layers(crossed(), EXAMPLE) == {"body"}


class Summed(nn.Module):
    """Sums that are no residual branches, and one layer that is one at its first call alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.one, self.other, self.twice, self.normed = (
            nn.Conv2d(3, 3, 1) for _ in range(5)
        )
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        x = self.one(x) + self.other(x)  # side by side
        x = x + self.twice(x)
        x = torch.relu(self.twice(x))
        return x + self.norm(self.normed(x))  # its answer is scaled by what the batch was


def test_what_is_not_added_to_its_own_input_is_no_branch() -> None:
    assert residual_layers(Summed(), EXAMPLE) == set()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_goes_on_without_them(name: str) -> None:
    """Whatever they answered, the output still follows the input."""
    options = MODELS[name].tiny
    module = create(name, **options).eval()
    channels = next(p.shape[1] for p in module.parameters() if p.ndim == 4)
    image = torch.rand(1, min(channels, 3), 32, 32, requires_grad=True)
    for layer in residual_layers(module, image.shape):
        for values in module.get_submodule(layer).parameters():
            nn.init.zeros_(values)
    for answer in [module(image)]:
        (pull,) = torch.autograd.grad(answer.sum(), image, allow_unused=True)
        assert pull is not None
        assert pull.abs().max() > 0


def test_a_branch_that_does_nothing_is_dropped_and_its_file_and_engine_are_right(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    edsr = create("edsr", scale=2, width=8, blocks=2)
    idle = edsr.get_submodule("body.0.body.2")
    for values in idle.parameters():
        nn.init.constant_(values, 1e-6)
    method = Sls.preset(
        "plus",
        budget=Budget.parse("1/4"),
        example=EXAMPLE,
        m=8,
        allow_zero=True,
        distill_weight=0.0,
    )
    settings = Settings(steps=60, learning_rate=1e-4, optimizer="adam", warmup=0)

    class Doubled(RandomData):
        def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
            image, _ = super().batch(seed, epoch, step)
            return image, image.repeat_interleave(2, -1).repeat_interleave(2, -2)

    thin = method.run(edsr, Doubled(), Trainer(settings))
    layers = thin.record["layers"]
    assert layers["body.0.body.2"] == [0, 8]
    assert all(
        n >= 1 for name, (n, _) in layers.items() if name not in residual_layers(edsr, EXAMPLE)
    )
    assert thin.record["achieved"] <= 0.25
    image = torch.rand(1, 3, 20, 24)
    with torch.inference_mode():
        expected = thin.module(image)
    torch.testing.assert_close(compile_module(thin)(image), expected, rtol=1e-5, atol=1e-5)
    save(tmp_path / "thin", thin, model="edsr", task=default_task("edsr", thin.module))
    again = load(tmp_path / "thin")
    assert again.patterns["body.0.body.2"].n == 0
    with torch.inference_mode():
        assert torch.equal(again.module(image), expected)
