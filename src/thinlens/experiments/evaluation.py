"""Test-set metrics of a comparison's networks: PSNR, SSIM, FLOPs, branch shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from thinlens.api import evaluate
from thinlens.checkpoints.format import Checkpoint
from thinlens.dynamic.model import model_of
from thinlens.dynamic.router import PAPER_SIDE
from thinlens.models import image_channels
from thinlens.restoration.evaluation import Evaluation
from thinlens.sparsity.summary import summarize
from thinlens.tasks.denoising import Denoising
from thinlens.tasks.task import Task


def evaluate_checkpoint(network: Checkpoint, task: Task, folder: str) -> dict[str, Any]:
    """Return PSNR and SSIM on a test folder, of a blind denoiser also at each noise level.

    LPIPS is beside them where the task's papers report it and its package and weights are there.

    Of a routed network also its cost report, and all figures under other `routers` (the oracle's
    where every branch has a noise level).
    """
    sigmas = task.sigmas if isinstance(task, Denoising) else ()
    with _on_gpu(network.module) as engine:

        def figures(router: str) -> dict[str, Any]:
            return _figures(
                evaluate(network, folder, task=task, sigmas=sigmas, engine=engine, router=router)
            )

        scores = figures("learned")
        if routers := model_of(network.module).routers(len(sigmas)):
            scores["routers"] = {router: figures(router) for router in routers}
    return scores


@contextmanager
def _on_gpu(module: nn.Module) -> Iterator[str]:
    """Hold `module` on the GPU, if there is one, without TF32 (10-bit mantissas); yield an engine.

    The engine is torch on the GPU, else auto.
    """
    if not torch.cuda.is_available():
        yield "auto"
        return
    device = next(module.parameters()).device
    try:
        module.to("cuda")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield "torch"
    finally:
        module.to(device)


def image_flops(network: Checkpoint) -> int:
    """Return the FLOPs of a 256x256 image in the largest branch, as ClassPruning counts them."""
    module = model_of(network.module).base
    shape = (image_channels(network.module), PAPER_SIDE, PAPER_SIDE)
    summary = summarize(module, network.patterns, shape, convention="classpruning")
    return summary.total.flops or 0


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    report: Mapping[str, Any] = evaluation.routing
    routing = {key: report[key] for key in ("shares", "mean_flops", "of_base") if key in report}
    levels = {"per_sigma": evaluation.per_sigma()} if evaluation.per_sigma() else {}
    lpips = {} if evaluation.lpips is None else {"lpips": evaluation.lpips}
    return {"psnr": evaluation.psnr, "ssim": evaluation.ssim, **lpips, **levels, **routing}
