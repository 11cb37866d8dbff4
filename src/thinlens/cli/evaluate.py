"""The verb `evaluate`: how well a network restores a folder of test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from thinlens.dynamic.routed import Routed
    from thinlens.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Evaluate(Verb):
    """Measure PSNR and SSIM on a folder of test images, by the task's protocol, which is printed.

    Example: thinlens evaluate rfdn-x4 --data Set5/x4
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT|BUNDLE")]
    """A folder, or a shipped name."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Holds HR and LR, input and target, blur and sharp, hazy and gt, rain and norain, what GoPro,
    REDS, Köhler, SIDD or Rain800 unpack to, or clean images alone."""
    sigma: Annotated[str | None, tyro.conf.arg(metavar="25|15,25,50", help_behavior_hint="")] = None
    """Noise level of a denoising task on the 0..255 range (default: the checkpoint's), or several,
    at each of which all images are judged."""
    crop_target: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Pixels to cut from every side of a dehazing task's targets: 10 for RESIDE's SOTS."""
    seed: int = 0
    """Seed of the noise or of synthetic blur."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the network: torch, the native CPU engine, or auto, the faster for thin ones."""
    router: Annotated[str, tyro.conf.arg(metavar="learned|oracle|random|0|1|2")] = "learned"
    """Who picks the branch of a class-pruned network: its classifier, the true noise level,
    chance with the classifier's shares, or one branch for all."""
    beta: Annotated[float | None, tyro.conf.arg(metavar="0.3", help_behavior_hint="")] = None
    """Of a bundle: as for restore."""
    image_budget: Annotated[
        str | None, tyro.conf.arg(metavar="6G|30%|40ms", help_behavior_hint="")
    ] = None
    """Of a bundle: as for restore."""
    rule: Annotated[
        str | None, tyro.conf.arg(metavar="equation-8|lagrange", help_behavior_hint="")
    ] = None
    """Of a bundle: as for restore."""
    price: Annotated[str | None, tyro.conf.arg(metavar="macs|ms", help_behavior_hint="")] = None
    """Of a bundle: as for restore."""
    sweep: bool = False
    """Of a bundle: measure all of beta's range and every network alone; write sweep.json, and
    pictures of PSNR by GMACs and by milliseconds."""
    rounds: int = 3
    """Of --sweep: how often each way is timed on every image; 0 times nothing."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of what --sweep writes (default: BUNDLE/sweep). Of a network that routes: of
    branches.png, which shows an image of each noise level as every branch restores it."""

    def run(self) -> Answer:
        from thinlens.adaptive.bundle import is_bundle

        return self._bundle() if is_bundle(self.checkpoint) else self._network()

    def _bundle(self) -> Answer:
        """Judge a bundle at one beta or budget, or at all."""
        from thinlens.cli.bundle_score import score
        from thinlens.cli.bundles import ready, wished
        from thinlens.cli.sweep import SweepOptions, run_sweep

        for flag, value in (("sigma", self.sigma), ("crop-target", self.crop_target)):
            if value is not None:
                raise UsageError(f"--{flag} {value}: a bundle's task is that of its estimator")
        if self.router != "learned":
            raise UsageError(f"--router {self.router}: the tiles of a bundle go by --beta")
        wish = wished(self.beta, self.image_budget, self.rule, self.price)
        made = ready(self.checkpoint, self.engine, wish)
        if not self.sweep:
            return score(made, self.data, seed=self.seed)
        if (self.beta, self.image_budget, self.rule) != (None, None, None):
            raise UsageError("--sweep tries all: wanted no --beta, --image-budget or --rule")
        out = self.out or Path(self.checkpoint) / "sweep"
        asked = SweepOptions(self.engine, self.seed, self.rounds)
        return run_sweep(made, self.data, out, asked)

    def _network(self) -> Answer:
        from thinlens.api import evaluate, load
        from thinlens.cli.bundles import refuse_for_networks
        from thinlens.cli.info import DEFAULT_SIZES
        from thinlens.cli.scores import protocol_of, scores
        from thinlens.dynamic.routed import Routed
        from thinlens.experiments.networks import input_shape
        from thinlens.experiments.values import sigmas, size
        from thinlens.report.tables import count, giga
        from thinlens.sparsity.summary import price
        from thinlens.tasks import make_task

        refuse_for_networks(
            self.checkpoint,
            beta=self.beta,
            image_budget=self.image_budget,
            rule=self.rule,
            price=self.price,
            sweep=self.sweep,
        )
        network = load(self.checkpoint)
        if self.out and not isinstance(network.module, Routed):
            raise UsageError(f"--out {self.out}: this network has one branch, and nothing is drawn")
        levels = sigmas(self.sigma) if self.sigma else ()
        given: dict[str, Any] = {"crop_target": self.crop_target}
        if len(levels) == 1:
            given["sigma"] = levels[0]
            given["sigmas"] = () if network.task.get("sigmas") else None
        changed = {key: value for key, value in given.items() if value is not None}
        task = make_task(**{**network.task, **changed})
        shape = input_shape(task, size(DEFAULT_SIZES["sls"]))
        with progress_bar(f"evaluating {self.checkpoint}") as report:
            found = evaluate(
                network,
                self.data,
                task=task,
                seed=self.seed,
                sigmas=levels if len(levels) > 1 else (),
                engine=self.engine,
                router=self.router,
                progress=report,
            )
        total = price(network.module, network.patterns, shape).total
        content = {**found.as_json(), "macs": total.macs, "params": total.params}
        cost = (
            f"{giga(total.macs)} GMACs at {DEFAULT_SIZES['sls']}, {count(total.params)} parameters"
        )
        about = [f"{protocol_of(found)}; {cost}"]
        about += [f"the inputs are {found.synthetic}, seed {self.seed}"] if found.synthetic else []
        about += [f"targets: {found.targets}"] if found.targets else []
        about += [f"LPIPS {found.lpips:.4f} (AlexNet)"] if found.lpips is not None else []
        about += [found.without_lpips] if found.without_lpips else []
        about += _routing(found.routing)
        if isinstance(network.module, Routed) and self.out:
            about.append(self._drawn(self.out, network.module, task, levels))
        return Answer(content, (scores(found).rich(), "\n".join(about)))

    def _drawn(self, out: Path, module: Routed, task: Task, levels: Sequence[float]) -> str:
        """Draw the first image at each noise level by every branch; say where, or why not."""
        from thinlens.dynamic.samples import restore_by_branches
        from thinlens.report.branches import samples_picture
        from thinlens.tasks.denoising import at_sigma

        kinds: dict[str, Task] = {f"sigma {sigma:g}": at_sigma(task, sigma) for sigma in levels}
        shown = {
            label: restore_by_branches(module, kind, self.data, seed=self.seed)
            for label, kind in (kinds or {task.name: task}).items()
        }
        try:
            samples_picture(out / "branches.png", shown, str(module.branches).split(","))
        except UsageError as missing:
            return f"no picture: {missing}"
        return f"{out / 'branches.png'}: {next(iter(shown.values())).name} by every branch"


def _routing(bill: Mapping[str, Any]) -> list[str]:
    """Say where images went, if there was a choice."""
    if not bill:
        return []
    shares = ", ".join(f"{share:.1%}" for share in bill["shares"])
    return [
        f"routed by {cost_report['router']}, thinnest branch first: {shares}; "
        f"{cost_report['mean_flops'] / 1e9:.2f} GFLOPs a 256x256 image on average with "
        f"{cost_report['classifier_flops'] / 1e9:.2f} of the classifier, {cost_report['of_base']:.1%} of the "
        "base network's"
    ]
