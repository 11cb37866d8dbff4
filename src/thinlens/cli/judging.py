"""What does a comparison remember of a network on a test set?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinlens.api import evaluate
from thinlens.checkpoints.format import Checkpoint
from thinlens.models import image_channels
from thinlens.models.routed import Routed
from thinlens.report.price import price
from thinlens.restoration.evaluation import Evaluation
from thinlens.restoration.routing import PAPER_SIDE
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
    found = _figures(evaluate(network, folder, task=task, sigmas=sigmas))
    if isinstance(network.module, Routed):
        found["routers"] = {
            router: _figures(evaluate(network, folder, task=task, sigmas=sigmas, router=router))
            for router in (ROUTERS if len(sigmas) == network.module.count else ROUTERS[1:])
        }
    return found


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
