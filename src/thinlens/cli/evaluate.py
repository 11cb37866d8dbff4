"""The verb `evaluate`: how well a network restores a folder of test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from thinlens.cli.progress import progress
from thinlens.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class Evaluate(Verb):
    """Measure PSNR and SSIM on a folder of test images, by the task's protocol, which is printed.

    Example: thinlens evaluate rfdn-x4 --data Set5/x4
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A folder, or a shipped name."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Holds HR and LR, input and target, blur and sharp, hazy and gt, rain and norain, GoPro's or
    REDS's folders, or clean images alone."""
    sigma: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Noise level of a denoising task on the 0..255 range (default: the checkpoint's)."""
    crop_target: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Pixels to cut from every side of a dehazing task's targets: 10 for RESIDE's SOTS."""
    seed: int = 0
    """Seed of the noise or of synthetic blur."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the network: torch, the native CPU engine, or auto, the faster for thin ones."""
    router: Annotated[str, tyro.conf.arg(metavar="learned|oracle|random|0|1|2")] = "learned"
    """Who picks the branch of a class-pruned network: its classifier, the true noise level,
    chance with the classifier's shares, or one branch for all."""

    def run(self) -> Answer:
        from thinlens.api import evaluate, load
        from thinlens.cli.info import DEFAULT_SIZES
        from thinlens.cli.networks import input_shape
        from thinlens.cli.values import size
        from thinlens.report.price import price
        from thinlens.report.tables import Table, count, giga
        from thinlens.tasks import make_task

        network = load(self.checkpoint)
        given: dict[str, Any] = {"sigma": self.sigma, "crop_target": self.crop_target}
        if self.sigma is not None and network.task.get("sigmas"):
            given["sigmas"] = ()
        changed = {key: value for key, value in given.items() if value is not None}
        task = make_task(**{**network.task, **changed})
        shape = input_shape(task, size(DEFAULT_SIZES["sls"]))
        with progress(f"evaluating {self.checkpoint}") as report:
            found = evaluate(
                network,
                self.data,
                task=task,
                seed=self.seed,
                engine=self.engine,
                router=self.router,
                progress=report,
            )
        total = price(network.module, network.patterns, shape).total
        content = {**found.as_json(), "macs": total.macs, "params": total.params}
        table = Table(
            ("image", "PSNR", "SSIM"),
            [(x.name, f"{x.psnr:.2f}", f"{x.ssim:.4f}") for x in found.per_image]
            + [(f"mean of {found.images}", f"{found.psnr:.2f}", f"{found.ssim:.4f}")],
        )
        by = found.protocol
        protocol = (
            f"dB and SSIM of {by.channel}, border of {by.crop} pixels cut, rounded to "
            f"{by.rounding}, range 0..{by.range}; {giga(total.macs)} GMACs at "
            f"{DEFAULT_SIZES['sls']}, {count(total.params)} parameters"
        )
        about = [protocol]
        about += [f"the inputs are {found.synthetic}, seed {self.seed}"] if found.synthetic else []
        about += [f"LPIPS {found.lpips:.4f} (AlexNet)"] if found.lpips is not None else []
        about += [found.without_lpips] if found.without_lpips else []
        return Answer(content, (table.rich(), "\n".join([*about, *_routing(found.routing)])))


def _routing(bill: Mapping[str, Any]) -> tuple[str, ...]:
    """Say where images went, if there was a choice."""
    if not bill:
        return ()
    shares = ", ".join(f"{share:.1%}" for share in bill["shares"])
    return (
        f"routed by {bill['router']}, thinnest branch first: {shares}; "
        f"{bill['mean_flops'] / 1e9:.2f} GFLOPs a 256x256 image on average with "
        f"{bill['classifier_flops'] / 1e9:.2f} of the classifier, {bill['of_base']:.1%} of the "
        "base network's",
    )
