"""The frontier of super-resolution networks: decibels by measured milliseconds, dense and thin.

    python benchmarks/frontier.py --out OUT [--networks rfdn-x4 span] [--budgets 1/2 1/4 1/8 1/16]

Each network of x4 runs dense and thin by least squares without training. Quality is PSNR on Set5
and Set14 (luma, border of 4 cut, 8 bit), and with --b100 on B100; time is the median of the fastest
engine and precision (float32, int16, bf16 where the CPU has it) on an input of 320x180: all engines
that are installed for dense networks, the native one for thin ones. All cases are timed in turns in
one run. Figures go to OUT/frontier.json, a network at a time; the same command goes on where it was
stopped. Prints Markdown, and draws OUT/frontier.png. Needs THINLENS_DATA.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

import thinlens
from thinlens.benchmark.backends import BackendSettings
from thinlens.benchmark.cases import collect_backends, parse_backends
from thinlens.benchmark.inputs import smooth_image
from thinlens.benchmark.interleaved import BenchCase, run_interleaved
from thinlens.benchmark.run import ALL_BACKENDS, describe_machine
from thinlens.files import write_json
from thinlens.images.folders import image_paths
from thinlens.images.reading import read_image
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops, crops_from_clean

SCALE = 4
SIZE = (180, 320)
"""Height and width of the timed input; its result has 1280x720 pixels."""

CALIBRATION_IMAGES = 100
"""Of BSDS500 `train`, the first ones by name."""

PRECISIONS = ("fp32", "bf16", "int16")
TESTS = ("Set5", "Set14")


@dataclass(frozen=True)
class Entry:
    """A network, where it is from, and what it was trained on."""

    source: str
    """A shipped name, or a file below THINLENS_DATA's `weights`."""
    data: str


NETWORKS = {
    "rfdn-x4": Entry("rfdn-x4", "BSDS500, and what its card lists"),
    "rfdn-x4-ceilings": Entry("rfdn-x4-ceilings", "that of rfdn-x4"),
    "rfdn-x4-free": Entry("rfdn-x4-free", "ten photographs under CC BY and CC0"),
    "rfdn-aim": Entry("RFDN_AIM/RFDN_AIM.pth", "DIV2K and Flickr2K (AIM 2020)"),
    "span": Entry("SPAN/spanx4-ch48.pth", "DIV2K and LSDIR (NTIRE 2024)"),
}


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Measure what is missing, print the table and draw the picture."""

    out: Path
    networks: tuple[str, ...] = tuple(NETWORKS)
    budgets: tuple[str, ...] = ("1/2", "1/4", "1/8", "1/16")
    """Shares of the prunable multiply-adds that are kept."""
    threads: int = 2
    rounds: int = 9
    against: str = ALL_BACKENDS
    b100: bool = False
    """Whether B100 is restored too: it takes ten times as long as the others."""

    def run(self) -> None:
        """Run the command."""
        torch.set_num_threads(self.threads)
        path = self.out / "frontier.json"
        self.out.mkdir(parents=True, exist_ok=True)
        settings = {
            "machine": describe_machine(),
            "threads": self.threads,
            "tests": list(self._tests()),
            "budgets": list(self.budgets),
            "against": self.against,
        }
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if content.get("settings") != settings:
            content = {"settings": settings, "rows": {}}
        for name in self.networks:
            if name not in content["rows"]:
                content["rows"][name] = list(self._rows(name))
                write_json(path, content)
        rows = [row for name in self.networks for row in content["rows"][name]]
        print("\n".join(table(rows, self._tests())))
        draw(rows, self.out / "frontier.png")

    def _tests(self) -> tuple[str, ...]:
        return (*TESTS, "B100") if self.b100 else TESTS

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        entry, data = NETWORKS[name], Path(os.environ["THINLENS_DATA"])
        weights = data / "weights" / entry.source
        network = thinlens.load(str(weights) if weights.exists() else entry.source).module.eval()
        task, crops = make_task("sr", scale=SCALE), calibration(data)
        versions = {"dense": network}
        for budget in self.budgets:
            thin = thinlens.prune(network, budget=budget, data=crops, size=SIZE)
            versions[budget] = thin.module.eval()
        cases = {kept: self._cases(module, kept) for kept, module in versions.items()}
        rows = run_interleaved(
            [case for some in cases.values() for case in some], self.threads, self.rounds
        )
        for kept, module in versions.items():
            fastest = min((row for row in rows if row.case in cases[kept]), key=lambda row: row.ms)
            yield {
                "network": name,
                "kept": kept,
                "data": entry.data,
                "ms": fastest.ms,
                "engine": f"{fastest.case.engine} {fastest.case.precision}",
                "psnr": {
                    test: thinlens.evaluate(module, data / "sr_test" / test / "x4", task=task).psnr
                    for test in self._tests()
                },
            }

    def _cases(self, module: nn.Module, kept: str) -> list[BenchCase]:
        """Prepare a network for the native engine, a dense one for the others too."""
        settings = [BackendSettings(self.threads, precision) for precision in PRECISIONS]
        others = parse_backends(self.against) if kept == "dense" else []
        return collect_backends(module, smooth_image(3, SIZE), settings, others).cases


def calibration(data: Path) -> Crops:
    """Cut large crops of training images, because padding at borders biases calibration."""
    paths = image_paths(data / "train" / "BSDS500" / "train")[:CALIBRATION_IMAGES]
    task = make_task("sr", scale=SCALE)
    return crops_from_clean(task, [read_image(path) for path in paths], patch=80, batch_size=13)


def is_on_frontier(row: Mapping[str, Any], rows: list[dict[str, Any]], test: str) -> bool:
    """Whether no network is at least as fast and as good on a test set, and better in one."""
    point = (-row["ms"], row["psnr"][test])
    points = [(-other["ms"], other["psnr"][test]) for other in rows]
    return not any(x >= point[0] and y >= point[1] and (x, y) != point for x, y in points)


def table(rows: list[dict[str, Any]], tests: tuple[str, ...]) -> list[str]:
    """Format all networks, fastest first; bold: none that is as fast is better on Set14."""
    lines = [f"| network | kept | ms | engine | {' | '.join(tests)} | trained on |"]
    lines.append("|---|---:|---:|---|" + "---:|" * len(tests) + "---|")
    for row in sorted(rows, key=lambda row: row["ms"]):
        quality = [f"{row['psnr'][test]:.2f}" for test in tests]
        name = row["network"]
        name = f"**{name}**" if is_on_frontier(row, rows, "Set14") else name
        cells = [name, row["kept"], f"{row['ms']:.1f}", row["engine"], *quality, row["data"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw PSNR on Set14 by milliseconds, a line for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(row["network"] for row in rows):
        some = sorted((row for row in rows if row["network"] == name), key=lambda row: row["ms"])
        ms, psnr = [row["ms"] for row in some], [row["psnr"]["Set14"] for row in some]
        (line,) = axes.plot(ms, psnr, "o-", label=name)
        for row, x, y in zip(some, ms, psnr, strict=True):
            axes.annotate(
                row["kept"], (x, y), xytext=(4, -11), textcoords="offset points",
                fontsize=8, color=line.get_color(),
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds, 320x180 to 1280x720, two threads, fastest engine")
    axes.set_ylabel("PSNR on Set14, dB")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    tyro.cli(Frontier).run()
