"""Published families of networks, dense and pruned to 1/4: what runs where, how exactly, how fast.

    python benchmarks/families.py [--names SPAN SwinIR-S ...] [--out bench-out/families]

Every network of `FAMILIES` (random weights, published hyperparameters), and every weight file of
--weights, goes the way of a user: imported from a file without its name, pruned at 1/4 (one-shot),
saved, loaded, and run as `restore --engine auto` runs it. A network's figures go to OUT/NAME.json;
the same command again measures only missing ones. Prints Markdown.

Columns: the share of the network's multiply-adds (attention's products included) that N:M can
prune; the multiply-adds of weights, dense and kept; the share of the convolutions' multiply-adds
that the engine runs, and its segments; the largest difference from torch, as a fraction of the
output's range; and torch's time over that of `auto`, dense and thin (interleaved, medians). With
--threads 1 times are the CPU's, which other programs hardly change.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import nn

import thinlens
from thinlens.benchmark.run import describe_machine
from thinlens.checkpoints.format import Checkpoint
from thinlens.checkpoints.spandrel_package import architectures
from thinlens.cli.main import main
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.plan import Plan
from thinlens.engine.selected_engine import SelectedEngine
from thinlens.engine.timings import WALL_CLOCK, Clock, measure_interleaved
from thinlens.engine.trace import Operation
from thinlens.errors import UsageError
from thinlens.files import write_json
from thinlens.models import image_channels
from thinlens.models.output import keep_output
from thinlens.sparsity.summary import CostSummary

SIDE = 64
"""Pixels on a side of the input: all 26 run on it, transformers in seconds."""

ROUNDS = 3
"""Timed rounds of each network, after one of warm-up."""

MOST_SECONDS = 10.0
"""Seconds after which no further round begins."""

HEAD = (
    "| network | prunable | GMACs dense | GMACs thin | bytes | convolutions in the engine | "
    "parts | error | torch / auto, dense | torch / auto, thin |\n" + "| --- " + 9 * "| ---: " + "|"
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One network of another package."""

    name: str
    module: str
    """The module that defines it, below the package `spandrel.architectures`."""
    kind: str
    """The name of its class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 3
    package: str = "spandrel"

    def build(self, seed: int = 0) -> nn.Module:
        """Build the network in evaluation mode with random weights."""
        architectures()  # imports spandrel, where torchvision is absent too
        module = importlib.import_module(f"{self.package}.architectures.{self.module}")
        torch.manual_seed(seed)
        network: nn.Module = getattr(module, self.kind)(**self.options)
        return network.eval()


SWIN = {"img_size": 64, "window_size": 8, "mlp_ratio": 2, "upscale": 4}

FAMILIES = (
    Family("SRVGGNetCompact 64x16 x4", "Compact", "Compact"),
    Family("RRDBNet 23 x4", "ESRGAN", "ESRGAN"),
    Family("RRDBNet 6 x4", "ESRGAN", "ESRGAN", {"num_blocks": 6}),
    Family("SPAN 48 x4", "SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3}),
    Family("RealCUGAN x2", "RealCUGAN", "UpCunet2x"),
    Family(
        "NAFNet width 32",
        "NAFNet",
        "NAFNet",
        {
            "width": 32,
            "middle_blk_num": 12,
            "enc_blk_nums": [2, 2, 4, 8],
            "dec_blk_nums": [2, 2, 2, 2],
        },
    ),
    Family("Restormer", "Restormer", "Restormer", package="spandrel_extra_arches"),
    Family("PLKSR 64 x4", "PLKSR", "PLKSR"),
    Family("RealPLKSR 64 x4", "PLKSR", "RealPLKSR"),
    Family(
        "MixDehazeNet-s",
        "MixDehazeNet",
        "MixDehazeNet",
        {"embed_dims": [24, 48, 96, 48, 24], "depths": [2, 2, 4, 2, 2]},
    ),
    Family("DRUNet colour", "DRUNet", "DRUNet", {"in_nc": 4, "out_nc": 3}, channels=4),
    Family("RCAN x4", "RCAN", "RCAN"),
    Family("SAFMN 36 x4", "SAFMN", "SAFMN", {"dim": 36}),
    Family("MoSR x4", "MoSR", "MoSR"),
    Family("DnCNN-17 grey", "DnCNN", "DnCNN", {"act_mode": "R"}, channels=1),
    Family(
        "SwinIR-M x4",
        "SwinIR",
        "SwinIR",
        {
            **SWIN,
            "embed_dim": 180,
            "depths": [6] * 6,
            "num_heads": [6] * 6,
            "upsampler": "pixelshuffle",
        },
    ),
    Family(
        "SwinIR-S x4",
        "SwinIR",
        "SwinIR",
        {
            **SWIN,
            "embed_dim": 60,
            "depths": [6] * 4,
            "num_heads": [6] * 4,
            "upsampler": "pixelshuffledirect",
        },
    ),
    Family(
        "SwinIR-L x4",
        "SwinIR",
        "SwinIR",
        {
            **SWIN,
            "embed_dim": 240,
            "depths": [6] * 9,
            "num_heads": [8] * 9,
            "upsampler": "nearest+conv",
            "resi_connection": "3conv",
        },
    ),
    Family(
        "DAT-light x4",
        "DAT",
        "DAT",
        {
            "embed_dim": 60,
            "split_size": [8, 32],
            "depth": [18],
            "num_heads": [6],
            "expansion_factor": 2,
            "upscale": 4,
            "resi_connection": "3conv",
            "upsampler": "pixelshuffledirect",
        },
    ),
    Family(
        "DAT-S x4",
        "DAT",
        "DAT",
        {
            "embed_dim": 180,
            "split_size": [8, 16],
            "depth": [6] * 6,
            "num_heads": [6] * 6,
            "expansion_factor": 2,
            "upscale": 4,
        },
    ),
    Family(
        "HAT-S x4",
        "HAT",
        "HAT",
        {
            "embed_dim": 144,
            "depths": [6] * 6,
            "num_heads": [6] * 6,
            "window_size": 16,
            "compress_ratio": 24,
            "squeeze_factor": 24,
            "mlp_ratio": 2,
            "upscale": 4,
        },
    ),
    Family("OmniSR x4", "OmniSR", "OmniSR", {"res_num": 5}),
    Family(
        "RGT-S x4",
        "RGT",
        "RGT",
        {
            "embed_dim": 180,
            "depth": [6] * 6,
            "num_heads": [6] * 6,
            "mlp_ratio": 2,
            "upscale": 4,
            "split_size": [8, 32],
        },
    ),
    Family(
        "DRCT x4",
        "DRCT",
        "DRCT",
        {"upscale": 4, "upsampler": "pixelshuffle", "window_size": 16, "mlp_ratio": 2},
    ),
    Family("SCUNet", "SCUNet", "SCUNet"),
    Family(
        "Swin2SR x4",
        "Swin2SR",
        "Swin2SR",
        {
            **SWIN,
            "embed_dim": 180,
            "depths": [6] * 6,
            "num_heads": [6] * 6,
            "upsampler": "pixelshuffle",
        },
    ),
)
"""The 26 families, from convolutions alone to transformers."""


@dataclass(frozen=True, kw_only=True)
class Families:
    """Measure missing networks and print the table."""

    names: tuple[str, ...] = ()
    """Words that the names of the networks contain; none: all."""
    weights: Path | None = (
        Path(os.environ["THINLENS_DATA"]) / "weights" if "THINLENS_DATA" in os.environ else None
    )
    """A folder of published weight files, which are measured too."""
    out: Path = Path("bench-out/families")
    threads: int = 2

    def run(self) -> None:
        """Measure each network that has no file, and print all."""
        torch.set_num_threads(self.threads)
        self.out.mkdir(parents=True, exist_ok=True)
        rows = []
        for name, source in self._sources().items():
            path = self.out / f"{name.replace(' ', '-').replace('/', '-')}.json"
            if not path.exists():
                start = time.monotonic()
                row = {"name": name, **measured(source)}
                row["seconds"] = round(time.monotonic() - start, 1)
                write_json(path, row)
            rows.append(json.loads(path.read_text()))
            print(line(rows[-1]), flush=True)
        print(f"\n{describe_machine()}\n\n{HEAD}")
        print("\n".join(map(line, rows)))

    def _sources(self) -> dict[str, Any]:
        """Return families and weight files by name."""
        sources: dict[str, Any] = {family.name: family for family in FAMILIES}
        for file in sorted(self.weights.rglob("*.pth")) if self.weights else ():
            sources[file.stem] = file
        words = [word.lower() for word in self.names]
        return {
            name: source
            for name, source in sources.items()
            if not words or any(word in name.lower() for word in words)
        }


def measured(source: Any) -> dict[str, Any]:
    """Return a network's figures, or the step and the sentence that stopped it."""
    step = "build"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            file = source
            if not isinstance(source, Path):
                file = folder / "network.pth"
                torch.save(source.build().state_dict(), file)
            step = "import"
            dense = imported(file, folder / "dense")
            size = (SIDE, SIDE)
            step = "cost"
            share = thinlens.cost(dense, size)
            step = "prune"
            thin = thinlens.prune(dense, budget="1/4", method="one-shot", size=size)
            step = "save"
            size_in_bytes = thinlens.save(folder / "thin", thin)
            step = "load"
            loaded = thinlens.load(folder / "thin")
            step = "restore"
            return {
                "import": dense.model,
                **costs(share, thinlens.cost(loaded, size)),
                "bytes": size_in_bytes,
                "dense": compared(dense),
                "thin": compared(loaded),
            }
        except (UsageError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
            return {"stopped": step, "why": f"{type(error).__name__}: {error}"[:300]}


def imported(file: Path, out: Path) -> Checkpoint:
    """Import a file as the command line does, and load the checkpoint."""
    status = main(["import", str(file), "--out", str(out)])
    if status:
        raise UsageError(f"import ended with status {status}")
    checkpoint = thinlens.load(out)
    if not isinstance(checkpoint, Checkpoint):
        raise UsageError(f"{out} is no checkpoint")
    return checkpoint


def costs(dense: CostSummary, thin: CostSummary) -> Row:
    """Return what can be pruned, and the multiply-adds of weights and products."""
    weights = sum(layer.macs for layer in dense.layers)
    return {
        "prunable": dense.total.prunable_macs / weights,
        "macs": dense.total.macs,
        "thin_macs": thin.total.macs,
    }


@torch.inference_mode()
def compared(network: Checkpoint) -> Row:
    """Compare `auto` with torch, and say what the engine runs."""
    module, threads = keep_output(network.module.eval()), torch.get_num_threads()
    channels = image_channels(module)
    image = torch.rand(1, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    make = SelectedEngine("auto")
    run = make(module)
    expected = module(image)
    span = float(expected.max() - expected.min())
    row = {"error": float((run(image) - expected).abs().max()) / span}
    begin = time.monotonic()
    seconds = measure_interleaved(
        [partial(module, image), partial(run, image)],
        ROUNDS,
        clock=WALL_CLOCK if threads > 1 else Clock(now=time.process_time),
        after_round=lambda done: time.monotonic() - begin > MOST_SECONDS,
    )
    torch_seconds, auto_seconds = map(median, seconds)
    row |= {"torch_ms": 1e3 * torch_seconds, "auto_ms": 1e3 * auto_seconds}
    try:
        engine = Compiled(module, threads)
        plan = engine.plan(Size(channels, SIDE, SIDE))
    except UsageError as error:
        return {**row, "native": 0.0, "parts": 0, "why": str(error)}
    native_error = float((engine(image) - expected).abs().max()) / span
    return {
        **row,
        "auto": make.used,
        "native_error": native_error,
        "native": convolution_share(plan),
        "parts": len(plan.parts()),
        "why": plan.first_reason,
    }


def convolution_share(plan: Plan) -> float:
    """Return the share of the convolutions' multiply-adds that the engine runs."""
    native = sum(map(convolution_macs, plan.native))
    return native / max(1, native + sum(map(convolution_macs, plan.reasons)))


def convolution_macs(operation: Operation) -> int:
    """Count the multiply-adds of an operation; 0 where it is no convolution."""
    if operation.name != "convolution":
        return 0
    image, weight = operation.args[:2]
    transposed = bool(operation.arguments["transposed"])
    positions = (image if transposed else operation.results[0]).shape[2:]
    return int(weight.numel() * prod(positions))


def line(row: Row) -> str:
    """Format a network's row."""
    if "stopped" in row:
        return f"| {row['name']} | stopped at {row['stopped']}: {row['why']} |" + 8 * " |"
    dense, thin = row["dense"], row["thin"]
    errors = [result.get(key, 0.0) for result in (dense, thin) for key in ("error", "native_error")]
    cells = (
        row["name"],
        f"{row['prunable']:.1%}",
        f"{row['macs'] / 1e9:.2f}",
        f"{row['thin_macs'] / 1e9:.2f}",
        f"{row['bytes']:,}",
        f"{thin['native']:.0%}",
        str(thin["parts"]),
        f"{max(errors):.0e}",
        f"{dense['torch_ms'] / dense['auto_ms']:.2f} ({dense.get('auto', 'torch')})",
        f"{thin['torch_ms'] / thin['auto_ms']:.2f} ({thin.get('auto', 'torch')})",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    tyro.cli(Families).run()
