"""Muon optimizer: momentum orthogonalised by Newton-Schulz iterations, Adam for vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values towards 1 (Jordan 2024)."""

UPDATE_RMS = 0.2
"""Root mean square of an update at learning rate 1, whatever the shape (Liu et al. 2025)."""

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
"""Adam's defaults (Kingma and Ba, ICLR 2015)."""


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per weight matrix; biases and other vectors take Adam's step.

    A convolution's weight counts as the matrix `[c_out, c_in kh kw]`. Source: K. Jordan, "Muon:
    an optimizer for hidden layers", 2024; scaling by Liu et al., arXiv 2502.16982.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.95, iterations: int = 5
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.ndim >= 2:
                    by_shape[parameter.shape].append(parameter)
                else:
                    self._adam_step(parameter, group["lr"])
            for weights in by_shape.values():
                self._orthogonal_steps(weights, group)
        return loss

    def _orthogonal_steps(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Update weights of one shape at once: a network has many, and most are small."""
        momentum = group["momentum"]
        averages, updates = [], []
        for weight in weights:
            state, gradient = self.state[weight], weight.grad
            assert gradient is not None  # narrowed by the caller
            if not state:
                state["average"] = torch.zeros_like(weight)
            averages.append(state["average"])
            updates.append(gradient)
        torch._foreach_lerp_(averages, updates, 1 - momentum)
        nesterov = torch.stack(torch._foreach_lerp(updates, averages, momentum))
        matrices = orthogonalize(nesterov.flatten(2), group["iterations"])
        scale = UPDATE_RMS * max(matrices.shape[1:]) ** 0.5
        torch._foreach_add_(
            weights, list(matrices.reshape(nesterov.shape)), alpha=-group["lr"] * scale
        )

    def _adam_step(self, vector: Tensor, lr: float) -> None:
        state, gradient, (beta1, beta2) = self.state[vector], vector.grad, ADAM_BETAS
        assert gradient is not None  # narrowed by the caller
        if not state:
            state["steps"] = 0
            state["average"], state["square"] = torch.zeros_like(vector), torch.zeros_like(vector)
        state["steps"] += 1
        state["average"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(gradient.square(), 1 - beta2)
        average = state["average"] / (1 - beta1 ** state["steps"])
        square = state["square"] / (1 - beta2 ** state["steps"])
        vector.add_(average / (square.sqrt() + ADAM_EPSILON), alpha=-lr)


def orthogonalize(matrix: Tensor, iterations: int) -> Tensor:
    """Bring all singular values of matrices `[..., R, C]` near 1 (within about 0.7 to 1.2) by
    Newton-Schulz."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
