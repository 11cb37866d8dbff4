"""The command `evaluate`: PSNR and SSIM of a network or a bundle on a folder of test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.precision_lines import precision_lines
from thinlens.cli.verb import Answer, Verb, refuse_for_networks
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from thinlens.adaptive.bundle import Bundle
    from thinlens.adaptive.options import RoutingOptions
    from thinlens.checkpoints.format import Checkpoint
    from thinlens.report.tables import Table
    from thinlens.restoration.evaluation import Evaluation
    from thinlens.sparsity.cost import Cost
    from thinlens.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Evaluate(Verb):
    """Measure PSNR and SSIM on a folder of test images, by the task's protocol, which is printed.

    Example: thinlens evaluate rfdn-x4 --data Set5/x4
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT|BUNDLE")]
    """A folder, or a shipped name."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Holds HR and LR, gt and lq, input and target, blur and sharp, hazy and gt, rain and norain,
    what BasicSR, DIV2K, SelfExSR, GoPro, REDS, Köhler, SIDD or Rain800 unpack to, or clean images
    alone; or a text file with an input and its target on every line."""
    sigma: Annotated[str | None, tyro.conf.arg(metavar="25|15,25,50", help_behavior_hint="")] = None
    """Noise level of a denoising task on the 0..255 range (default: the checkpoint's), or several,
    at each of which all images are evaluated."""
    crop_target: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Pixels to cut from every side of a dehazing task's targets: 10 for RESIDE's SOTS."""
    seed: int = 0
    """Seed of the noise or of synthetic blur."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the network: torch, the native CPU engine, or auto, the faster one."""
    precision: Annotated[
        str, tyro.conf.arg(metavar="fp32|bf16|int16|fast", help_behavior_hint="")
    ] = "fp32"
    """Of the native engine; fast is the fastest within 0.01 dB of fp32 (default: fp32)."""
    router: Annotated[str, tyro.conf.arg(metavar="learned|oracle|random|0|1|2")] = "learned"
    """Selection of the branch of a routed network: its classifier, the true noise level, at random
    with the classifier's shares, or one branch for all."""
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
    """Of --sweep: timed runs of each network on every image; 0 measures no times."""
    uniform_beta: bool = False
    """Of --sweep: also the curves at 40 evenly spaced values of beta from 0 to 10 (SLS)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the files of --sweep (default: BUNDLE/sweep). Of a routed network: of
    branches.png, an image of each noise level restored by every branch."""

    def run(self) -> Answer:
        from thinlens.adaptive.bundle import Bundle
        from thinlens.api import load

        loaded = load(self.checkpoint)
        if not isinstance(loaded, Bundle):
            return self._network(loaded)
        self._check_bundle_flags()
        return self._sweep(loaded) if self.sweep else self._bundle(loaded)

    def _check_bundle_flags(self) -> None:
        for flag, value in (("sigma", self.sigma), ("crop-target", self.crop_target)):
            if value is not None:
                raise UsageError(f"--{flag} {value}: a bundle's task is that of its estimator")
        if self.router != "learned":
            raise UsageError(f"--router {self.router}: the tiles of a bundle go by --beta")

    def _routing(self) -> RoutingOptions:
        from thinlens.adaptive.options import RoutingOptions

        return RoutingOptions.read(self.beta, self.image_budget, self.rule, self.price)

    def _sweep(self, bundle: Bundle) -> Answer:
        from thinlens.cli.sweep import SweepOptions, run_sweep

        timed_by = self.engine if self._routing().price == "ms" else None
        if (self.beta, self.image_budget, self.rule) != (None, None, None):
            raise UsageError("--sweep tries all: wanted no --beta, --image-budget or --rule")
        out = self.out or Path(self.checkpoint) / "sweep"
        options = SweepOptions(self.engine, self.seed, self.rounds, self.uniform_beta)
        return run_sweep(bundle, self.data, out, options, timed_by)

    def _bundle(self, bundle: Bundle) -> Answer:
        """Evaluate a bundle as a network is; `macs` are those of its tiles, scaled to 1280x720."""
        from thinlens.api import evaluate
        from thinlens.report.tables import format_giga, format_integer

        with progress_bar("evaluating the bundle") as report:
            evaluation = evaluate(
                bundle,
                self.data,
                seed=self.seed,
                engine=self.engine,
                precision=self.precision,
                routing=self._routing(),
                progress=report,
            )
        routing, params = evaluation.routing, bundle.parameters
        content = {**evaluation.as_json(), "macs": routing["hd_macs"], "params": params}
        shares = ", ".join(
            f"{name} {share:.1%}"
            for name, share in zip(routing["candidates"], routing["shares"], strict=True)
        )
        sentence = (
            f"{_protocol(evaluation)}; {format_giga(routing['hd_macs'])} GMACs at 1280x720 with "
            f"margins and estimator, {format_integer(params)} parameters in all networks\n"
            f"{routing['tiles']} tiles: {shares}\n{self._data_line(evaluation)}"
        )
        return Answer(content, (_table(evaluation).rich(), sentence))

    def _network(self, network: Checkpoint) -> Answer:
        from thinlens.api import evaluate
        from thinlens.cli.values import sigmas
        from thinlens.dynamic.model import model_of

        refuse_for_networks(
            self.checkpoint,
            beta=self.beta,
            image_budget=self.image_budget,
            rule=self.rule,
            price=self.price,
            sweep=self.sweep,
        )
        routed = bool(model_of(network.module).branch_names)
        if self.out and not routed:
            raise UsageError(f"--out {self.out}: this network has one branch, and nothing is drawn")
        levels = sigmas(self.sigma) if self.sigma else ()
        task = self._task(network, levels)
        with progress_bar(f"evaluating {self.checkpoint}") as report:
            evaluation = evaluate(
                network,
                self.data,
                task=task,
                seed=self.seed,
                sigmas=levels if len(levels) > 1 else (),
                engine=self.engine,
                precision=self.precision,
                router=self.router,
                progress=report,
            )
        total = self._total(network, task)
        content = {**evaluation.as_json(), "macs": total.macs, "params": total.params}
        lines = self._lines(evaluation, total)
        if routed and self.out:
            lines.append(self._draw_branches(self.out, network, task, levels))
        return Answer(content, (_table(evaluation).rich(), "\n".join(lines)))

    def _task(self, network: Checkpoint, levels: Sequence[float]) -> Task:
        """Return the checkpoint's task with the options of the flags."""
        from thinlens.tasks import make_task

        options: dict[str, Any] = {"crop_target": self.crop_target}
        if len(levels) == 1:
            options["sigma"] = levels[0]
            options["sigmas"] = () if network.task.get("sigmas") else None
        changed = {key: value for key, value in options.items() if value is not None}
        return make_task(**{**network.task, **changed})

    def _total(self, network: Checkpoint, task: Task) -> Cost:
        from thinlens.experiments.networks import HD_SIZE, input_shape
        from thinlens.sparsity.summary import summarize

        return summarize(network.module, network.patterns, input_shape(task, HD_SIZE)).total

    def _lines(self, evaluation: Evaluation, total: Cost) -> list[str]:
        """Return the protocol, the cost and the remarks of an evaluation as sentences."""
        from thinlens.report.tables import format_giga, format_integer

        cost = f"{format_giga(total.macs)} GMACs at 1280x720"
        lines = [f"{_protocol(evaluation)}; {cost}, {format_integer(total.params)} parameters"]
        lines.append(self._data_line(evaluation))
        lines += [f"targets: {evaluation.targets}"] if evaluation.targets else []
        if evaluation.lpips is not None:
            lines.append(f"LPIPS {evaluation.lpips:.4f} (AlexNet)")
        lines += [evaluation.without_lpips] if evaluation.without_lpips else []
        lines += precision_lines(evaluation.precision)
        return lines + _shares(evaluation.routing)

    def _data_line(self, evaluation: Evaluation) -> str:
        """Return what was taken for inputs and targets, and the seed of synthetic inputs."""
        seeded = f", seed {self.seed}" if evaluation.synthetic else ""
        return f"data: {evaluation.data}{seeded}"

    def _draw_branches(
        self, out: Path, network: Checkpoint, task: Task, levels: tuple[float, ...]
    ) -> str:
        """Draw the first image at each noise level by every branch; return the file or why not."""
        from thinlens.dynamic.model import EvaluationOptions, model_of
        from thinlens.report.branch_plots import draw_branch_restorations

        model = model_of(network.module)
        options = EvaluationOptions(seed=self.seed, sigmas=levels)
        images = model.branch_images(task, self.data, options)
        try:
            draw_branch_restorations(out / "branches.png", images, model.branch_names)
        except UsageError as missing:
            return f"no picture: {missing}"
        return f"{out / 'branches.png'}: {next(iter(images.values())).name} by every branch"


def _shares(routing: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the shares and the cost of branches, for a routed network."""
    if not routing:
        return []
    shares = ", ".join(f"{share:.1%}" for share in routing["shares"])
    return [
        f"routed by {routing['router']}, thinnest branch first: {shares}; "
        f"{routing['mean_flops'] / 1e9:.2f} GFLOPs a 256x256 image on average with "
        f"{routing['classifier_flops'] / 1e9:.2f} of the classifier, {routing['of_base']:.1%} of "
        "the base network's"
    ]


def _protocol(evaluation: Evaluation) -> str:
    """Return the protocol of an evaluation as a sentence."""
    protocol = evaluation.protocol
    return (
        f"dB and SSIM of {protocol.channel}, border of {protocol.crop} pixels cut, rounded to "
        f"{protocol.rounding}, range 0..{protocol.range}"
    )


def _table(evaluation: Evaluation) -> Table:
    """Return one row an image, and the means: of each noise level if there are several, and all."""
    from thinlens.report.tables import Table

    images = [
        (x.name if x.sigma is None else f"{x.name} at {x.sigma:g}", x.psnr, x.ssim)
        for x in evaluation.per_image
    ]
    levels = [
        (f"mean at sigma {at['sigma']:g}", at["psnr"], at["ssim"]) for at in evaluation.per_sigma()
    ]
    mean = (f"mean of {evaluation.images}", evaluation.psnr, evaluation.ssim)
    rows = [
        (name, "inf" if psnr is None else f"{psnr:.2f}", f"{ssim:.4f}")
        for name, psnr, ssim in [*images, *levels, mean]
    ]
    return Table(("image", "PSNR", "SSIM"), rows)
