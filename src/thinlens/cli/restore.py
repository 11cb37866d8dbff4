"""The verb `restore`: images of a folder go through a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from thinlens.adaptive.router import TileRouter
    from thinlens.checkpoints.format import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Restore(Verb):
    """Restore an image or a folder of images; the same command again does what is left.

    Example: thinlens restore photos --model rfdn-x4 --out large
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """An image, or a folder of images."""
    model: Annotated[str, tyro.conf.arg(metavar="CHECKPOINT|BUNDLE")]
    """A folder, or a shipped name; a bundle (thinlens adapt) picks a network for every tile."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Gets <relative path>.png and manifest.jsonl."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the network: torch, the native CPU engine, or auto, the faster for thin ones."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Longest side, in input pixels, of the tiles that images are cut into; by default images
    stay whole while they fit into memory."""
    beta: Annotated[float | None, tyro.conf.arg(metavar="0.3", help_behavior_hint="")] = None
    """Of a bundle: how much cheap networks are liked, from 0 (the best at any cost) on; SLS's
    equation 8 (default: 0.3)."""
    image_budget: Annotated[
        str | None, tyro.conf.arg(metavar="6G|30%|40ms", help_behavior_hint="")
    ] = None
    """Of a bundle, in place of --beta: multiply-adds or milliseconds that an image may take, or
    their part of what the dearest network takes for it."""
    rule: Annotated[
        str | None, tyro.conf.arg(metavar="equation-8|lagrange", help_behavior_hint="")
    ] = None
    """Of a bundle with --image-budget: how it is shared out (default: equation-8)."""
    price: Annotated[str | None, tyro.conf.arg(metavar="macs|ms", help_behavior_hint="")] = None
    """Of a bundle: what a tile costs, multiply-adds or milliseconds of this machine, measured once
    (default: what --image-budget is in, else macs)."""
    map: bool = False
    """Of a bundle: draw over each result which network restored which tile, as
    <relative path>.routes.png (red is the dearest, no colour the free one)."""
    blend: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Input pixels over which neighbouring tiles fade into another; of a bundle at most its
    margin."""
    max_pixels: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Inputs with more are refused before they are decoded; by default Pillow's limit against
    decompression bombs, 178956970."""

    def run(self) -> Answer:
        from thinlens.adaptive.bundle import is_bundle
        from thinlens.api import restore

        limit: dict[str, Any] = {} if self.max_pixels is None else {"max_pixels": self.max_pixels}
        network, chosen = self._bundle() if is_bundle(self.model) else self._network()
        with progress_bar("restoring") as report:
            outcome = restore(
                network,
                self.source,
                self.out,
                engine=self.engine,
                progress=report,
                **chosen,
                **limit,
            )
        failures = [f"{name}: {reason}" for name, reason in outcome.failures.items()]
        sentence = (
            f"{self.out}: {outcome.done} done, {len(failures)} failed, {outcome.skipped} skipped "
            f"in {outcome.seconds:.1f} s"
        )
        return Answer(outcome.as_json(), (sentence,), failures=tuple(failures))

    def _network(self) -> tuple[Checkpoint, dict[str, Any]]:
        from thinlens.api import load
        from thinlens.cli.bundles import refuse_for_networks

        refuse_for_networks(
            self.model,
            beta=self.beta,
            image_budget=self.image_budget,
            rule=self.rule,
            price=self.price,
            map=self.map,
        )
        return load(self.model), {"tile": self.tile, "blend": self.blend}

    def _bundle(self) -> tuple[TileRouter, dict[str, Any]]:
        from thinlens.adaptive.route_map import draw_route_map
        from thinlens.cli.bundles import ready, wished

        if self.tile is not None:
            raise UsageError(f"--tile {self.tile}: the tiles of {self.model} are its own")
        wish = wished(self.beta, self.image_budget, self.rule, self.price)
        made = ready(self.model, self.engine, wish, self.blend)

        def picture(result: Path, target: Path) -> None:
            if made.router.last:
                draw_route_map(result, target, made.router.last, made.bundle.tiling)

        return made.router, {
            "task": made.bundle.task,
            "picture": picture if self.map else None,
        }
