"""How does a gradient reach weights that a mask hides? (SR-STE, Zhou et al., ICLR 2021)"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function


def masked(weight: Tensor, mask: Tensor, decay: float) -> Tensor:
    """Return `W m`, whose gradient is `dL/d(W m) + decay (1 - m) W`: straight through the mask.

    Hidden weights are thus trained too, and pulled towards 0 by `decay`.
    """
    product: Tensor = _StraightThrough.apply(weight, mask, decay)  # type: ignore[no-untyped-call]
    return product


class _StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return (gradient + ctx.decay * ~mask * weight if ctx.decay else gradient), None, None
