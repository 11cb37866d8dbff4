"""What does a comparison remember of a network on a test set?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from thinlens.api import evaluate
from thinlens.checkpoints.format import Checkpoint
from thinlens.dynamic.routed import Routed
from thinlens.dynamic.router import PAPER_SIDE
from thinlens.models import image_channels
from thinlens.restoration.evaluation import Evaluation
from thinlens.sparsity.summary import price
from thinlens.tasks.denoising import Denoising
from thinlens.tasks.task import Task

ROUTERS = ("oracle", "random")
"""Who else picks the branches of a network that routes, beside its classifier."""


def judged(network: Checkpoint, task: Task, folder: str) -> dict[str, Any]:
    """Return PSNR and SSIM, at each noise level of a blind denoising too.

    Of a network that routes, also its bill, and the figures under other `routers`; the oracle's
    where there is a noise level for every branch.
    """
    sigmas = task.sigmas if isinstance(task, Denoising) else ()
    with _where_it_is_fast(network.module) as engine:

        def figures(router: str = "learned") -> dict[str, Any]:
            return _figures(
                evaluate(network, folder, task=task, sigmas=sigmas, engine=engine, router=router)
            )

        found = figures()
        if isinstance(network.module, Routed):
            all_known = len(sigmas) == network.module.count
            found["routers"] = {x: figures(x) for x in (ROUTERS if all_known else ROUTERS[1:])}
    return found


@contextmanager
def _where_it_is_fast(module: nn.Module) -> Iterator[str]:
    """Hold `module` on the GPU, if there is one, in full float32 (TF32 has 10 bits), and give the
    engine that runs it there."""
    if not torch.cuda.is_available():
        yield "auto"
        return
    home = next(module.parameters()).device
    try:
        module.to("cuda")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield "torch"
    finally:
        module.to(home)


def flops(network: Checkpoint) -> int:
    """Return the FLOPs of an image of 256x256 as ClassPruning counts them: of the fullest branch,
    where there are several."""
    module = network.module.network if isinstance(network.module, Routed) else network.module
    shape = (image_channels(network.module), PAPER_SIDE, PAPER_SIDE)
    return price(module, network.patterns, shape, convention="classpruning").total.flops or 0


def _figures(found: Evaluation) -> dict[str, Any]:
    bill: Mapping[str, Any] = found.routing
    told = {key: bill[key] for key in ("shares", "mean_flops", "of_base") if key in bill}
    levels = {"per_sigma": found.per_sigma()} if found.per_sigma() else {}
    return {"psnr": found.psnr, "ssim": found.ssim, **levels, **told}
