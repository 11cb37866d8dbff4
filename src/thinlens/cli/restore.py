"""The command `restore`: restore the images of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from thinlens.cli.precision_lines import precision_lines
from thinlens.cli.restore_forecast import dry_run_answer, preview_answer
from thinlens.cli.verb import Answer, Verb, refuse_for_networks
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

PHOTOGRAPH_OPTIONS = (
    "format",
    "quality",
    "compression",
    "size",
    "resample",
    "strength",
    "alpha",
    "strip",
    "first_frame",
    "shard",
)
"""The flags that are fields of `RestoreOptions` under the same name."""

SHOWN_NAMES = 5
"""Names of files that were not taken in the text; `--json` has all."""


@dataclass(frozen=True, kw_only=True)
class Restore(Verb):
    """Restore images and folders of images; the same command again restores the others.

    Example: thinlens restore photos --model rfdn-x4 --out large

    Depth (8, 16 bits, floats), grey, transparency, EXIF, XMP, IPTC, resolution and colour profile
    are kept.
    """

    source: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="SOURCE...", help_behavior_hint=""),
    ]
    """Images, folders of images, and patterns such as 'photos/*.jpg'; or s3://bucket/prefix."""
    model: Annotated[str, tyro.conf.arg(metavar="CHECKPOINT|BUNDLE")]
    """A folder, or a shipped name; a bundle (thinlens adapt) selects a network for every tile."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR|FILE.png")]
    """A folder: gets <relative path>.png and manifest.jsonl; paths are relative to a single source
    folder, or to what several sources have in common. For one image also a file name, whose ending
    is the format. Or s3://bucket/prefix (extra `objects`)."""
    format: Annotated[
        str, tyro.conf.arg(metavar="png|jpeg|webp|tiff|jxl|avif|same", help_behavior_hint="")
    ] = "png"
    """Of the results; same: as the input's name says (default: png)."""
    quality: Annotated[int | None, tyro.conf.arg(metavar="1..100", help_behavior_hint="")] = None
    """Of jpeg, webp, jxl (default: 95) and avif (90); at 100 webp and jxl are lossless."""
    compression: Annotated[str, tyro.conf.arg(metavar="fast|small", help_behavior_hint="")] = "fast"
    """Of png and tiff; small takes some seventy times as long for 15 % (default: fast)."""
    size: Annotated[
        str | None, tyro.conf.arg(metavar="3840x2160|2x|1.5x|50%", help_behavior_hint="")
    ] = None
    """Of the results: a box that they fit into, or a multiple of the input's size; the network runs
    again while it is larger, then the result is resampled (default: the network's scale)."""
    resample: Annotated[str, tyro.conf.arg(metavar="bicubic|lanczos", help_behavior_hint="")] = (
        "bicubic"
    )
    """How results reach --size; lanczos works in linear light (default: bicubic)."""
    strength: Annotated[float, tyro.conf.arg(metavar="0..1", help_behavior_hint="")] = 1.0
    """Weight of the network's result against the enlarged input (default: 1)."""
    alpha: Annotated[
        str, tyro.conf.arg(metavar="network|bicubic|flatten", help_behavior_hint="")
    ] = "network"
    """What enlarges transparency; flatten lays images on white (default: network)."""
    strip: bool = False
    """Drop EXIF, XMP, IPTC, resolution and profile; colours become sRGB."""
    first_frame: bool = False
    """Restore the first image of animations and of files with several pages."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="2/8", help_behavior_hint="")] = None
    """Restore one of so many parts of the images, chosen by their names; the parts together are the
    whole, each with a manifest of its own."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="[ADDRESS]", help_behavior_hint="")] = None
    """Restore by workers on a Ray cluster (extra `ray`): local, auto, or its address; without one,
    before another flag or at the end, local."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Of --ray, processes with an equal share of the cores (default: one for each machine)."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the network: torch, the native CPU engine, or auto, the faster one."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|mps|xpu")] = "auto"
    """What computes; a GPU runs torch in half precision; auto: a GPU if torch has one."""
    precision: Annotated[
        str, tyro.conf.arg(metavar="fp32|bf16|int16|fast", help_behavior_hint="")
    ] = "fp32"
    """Of the native engine; fast is the fastest within 0.01 dB of fp32 (default: fp32)."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Longest side, in input pixels, of the tiles that images are cut into; by default images
    stay whole while they fit into memory."""
    memory: Annotated[str | None, tyro.conf.arg(metavar="2G|800M", help_behavior_hint="")] = None
    """Most memory of the process, libraries included: smaller tiles or bands; not for bundles
    (default: half of what is free; a container's limit counts)."""
    beta: Annotated[float | None, tyro.conf.arg(metavar="0.3", help_behavior_hint="")] = None
    """Of a bundle: weight of the cost, from 0 (the best network at any cost) on, in SLS's
    equation 8 (default: 0.3)."""
    image_budget: Annotated[
        str | None, tyro.conf.arg(metavar="6G|30%|40ms", help_behavior_hint="")
    ] = None
    """Of a bundle, in place of --beta: multiply-adds or milliseconds that an image may take, or
    their part of what the most expensive network takes for it."""
    rule: Annotated[
        str | None, tyro.conf.arg(metavar="equation-8|lagrange", help_behavior_hint="")
    ] = None
    """Of a bundle with --image-budget: the rule of its distribution (default: equation-8)."""
    price: Annotated[str | None, tyro.conf.arg(metavar="macs|ms", help_behavior_hint="")] = None
    """Of a bundle: what a tile costs, multiply-adds or milliseconds of this machine, measured once
    (default: what --image-budget is in, else macs)."""
    map: bool = False
    """Of a bundle: draw over each result which network restored which tile, as
    <relative path>.routes.png (red is the most expensive, no colour the free one)."""
    blend: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Input pixels over which neighbouring tiles are blended; of a bundle at most its margin."""
    margin: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Input pixels around tiles, in place of those with which tiles equal the whole image: faster
    where a network looks far. The error at the seams is measured and printed."""
    max_pixels: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Inputs with more are refused before they are decoded; by default Pillow's limit against
    decompression bombs, 178956970."""
    dry_run: bool = False
    """List what would be done, with sizes, time and disk space; write nothing."""
    preview: Annotated[str | None, tyro.conf.arg(metavar="X,Y,W,H", help_behavior_hint="")] = None
    """Write this part of the first image, restored by each of several --model a,b,c, side by side
    to <name>.preview.png with the seconds a megapixel; restore nothing."""

    def run(self) -> Answer:
        from thinlens.adaptive.bundle import Bundle
        from thinlens.adaptive.options import RoutingOptions
        from thinlens.api import load, restore
        from thinlens.checkpoints.format import Checkpoint
        from thinlens.restoration.clipping import clipping_sentence
        from thinlens.restoration.object_stores import object_url
        from thinlens.restoration.options import RestoreOptions

        if self.workers is not None and self.ray is None:
            raise UsageError(f"--workers {self.workers}: wanted --ray too")
        if self.preview is not None:
            models = [name.strip() for name in self.model.split(",") if name.strip()]
            return preview_answer(models, self.source, self.out, self.preview, self.engine)
        loaded = load(self.model)
        options: dict[str, Any] = {"blend": self.blend}
        if isinstance(loaded, Bundle):
            self._refuse_tiles()
            routing = RoutingOptions.read(self.beta, self.image_budget, self.rule, self.price)
        else:
            self._refuse_routing()
            routing = None
            options |= {"tile": self.tile, "margin": self.margin, "memory": self.memory}
        if self.max_pixels is not None:
            options["max_pixels"] = self.max_pixels
        options |= {name: getattr(self, name) for name in PHOTOGRAPH_OPTIONS}
        if self.dry_run:
            settings = RestoreOptions(**options)
            running = (self.engine, self.precision, routing)
            return dry_run_answer(loaded, self.source, self.out, running, settings)
        with progress_bar("restoring") as report:
            result = restore(
                *(loaded, self.source, self.out),
                engine=self.engine,
                device=self.device if isinstance(loaded, Checkpoint) else "cpu",
                precision=self.precision,
                routing=routing,
                route_maps=self.map,
                ray=self.ray,
                workers=self.workers,
                progress=report,
                **options,
            )
        failures = [f"{name}: {reason}" for name, reason in result.failures.items()]
        sentence = (
            f"{object_url(self.out) or self.out}: {result.done} done, {len(failures)} failed, "
            f"{result.skipped} skipped in {result.seconds:.1f} s"
        )
        seams = (result.seam_error.sentence(),) if result.seam_error else ()
        others = (_not_taken(result.not_taken),) if result.not_taken else ()
        removed = tuple(
            f"{name}: removed, its input has another result now" for name in result.removed
        )
        timing = (result.timing.sentence(),) if result.timing else ()
        rounding = precision_lines(result.precision)
        clipping = (clipping_sentence(result.clipped),) if result.clipped else ()
        text = (sentence, *timing, *clipping, *others, *removed, *seams, *rounding)
        return Answer(result.as_json(), text, failures=tuple(failures))

    def _refuse_routing(self) -> None:
        refuse_for_networks(
            self.model,
            beta=self.beta,
            image_budget=self.image_budget,
            rule=self.rule,
            price=self.price,
            map=self.map,
        )

    def _refuse_tiles(self) -> None:
        """Refuse flags that do not apply to a bundle."""
        if self.tile is not None:
            raise UsageError(f"--tile {self.tile}: the tiles of {self.model} are its own")
        if self.margin is not None:
            raise UsageError(f"--margin {self.margin}: the margin of {self.model} is its own")
        if self.memory is not None:
            raise UsageError(f"--memory {self.memory}: the tiles of {self.model} are its own")
        if self.device not in ("auto", "cpu"):
            raise UsageError(f"--device {self.device}: bundles such as {self.model} run on the CPU")


def _not_taken(names: tuple[str, ...]) -> str:
    """Return the sentence on the files that are no images."""
    shown = ", ".join(names[:SHOWN_NAMES])
    rest = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    verb = "file was" if len(names) == 1 else "files were"
    return f"{len(names)} {verb} not taken: {shown}{rest}"
