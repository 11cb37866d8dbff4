"""A folder of photographs by thin networks, by dense ones in torch, and by ncnn.

    python benchmarks/photographs.py PHOTOS --out OUT [--networks THIN=DENSE ...] [--count 2]

Every engine gets the whole folder in one process: seconds of every photograph, and of all, and the
peak memory of the process. A photograph in tiles of 200 pixels with 10 around them, as the tools of
Real-ESRGAN do, stands for ncnn. `--reduce 2` halves the sides of the photographs first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from thinlens.api import load_checkpoint
from thinlens.benchmark.backends.backend import BackendSettings
from thinlens.benchmark.backends.ncnn import ncnn
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.reading import read_image
from thinlens.images.tiles import Tiling
from thinlens.images.writing import write_png

THIN_RFDN = "rfdn-x4-quarter"
"""Folder of the thin rfdn-x4, which is made if it is absent: least squares, 1/4."""

NETWORKS = (
    f"{THIN_RFDN}=rfdn-x4",
    "realesr-animevideov3-thin=realesr-animevideov3",
)

NCNN_TILE, NCNN_MARGIN = 200, 10
"""Of realesrgan-ncnn-vulkan: the tile with enough memory, and its padding."""


class NcnnTiles:
    """Runs a network in ncnn on tiles of one size, to which smaller ones are padded."""

    def __init__(self, module: torch.nn.Module, threads: int) -> None:
        side = NCNN_TILE + 2 * NCNN_MARGIN
        self._place = torch.zeros(1, 3, side, side)
        self._run = ncnn(module, self._place, BackendSettings(threads, "fp32"))

    def restore(self, image: Tensor) -> Tensor:
        """Return the result of `[3, h, w]`: the cores of its tiles, joined."""
        height, width = image.shape[-2:]
        side, result = self._place.shape[-1], torch.zeros(0)
        for tile in Tiling((NCNN_TILE, NCNN_TILE), (NCNN_MARGIN, NCNN_MARGIN)).tiles(height, width):
            core, outer = tile.core, tile.outer
            part = image[None, :, outer.top : outer.bottom, outer.left : outer.right]
            padding = (0, side - outer.width, 0, side - outer.height)
            self._place.copy_(F.pad(part, padding, mode="replicate"))
            restored = self._run()[0]
            scale = restored.shape[-1] // side
            if not result.numel():
                result = torch.zeros(3, height * scale, width * scale)
            top, left = (core.top - outer.top) * scale, (core.left - outer.left) * scale
            rows, columns = core.height * scale, core.width * scale
            target = result[:, core.top * scale :, core.left * scale :]
            target[:, :rows, :columns] = restored[:, top : top + rows, left : left + columns]
        return result


def by_ncnn(name: str, source: Path, out: Path) -> None:
    """Restore a folder by ncnn and write what a manifest would hold."""
    network = NcnnTiles(load_checkpoint(name).module.eval(), torch.get_num_threads())
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for path in sorted(source.iterdir()):
        start = time.monotonic()
        image = read_image(path, channels=3)
        result = network.restore(to_float(image))
        write_png(out / f"{path.stem}.png", to_uint8(result))
        lines.append(json.dumps({"path": path.name, "seconds": time.monotonic() - start}))
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n")


def command(words: list[str], out: Path) -> tuple[dict[str, float], float, float, float]:
    """Run a command; return seconds by photograph, seconds, CPU seconds, and the peak in MiB."""
    start = time.monotonic()
    child = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} failed with status {child.returncode}")
    seconds, spent = time.monotonic() - start, usage.ru_utime + usage.ru_stime
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    unit = 2**20 if sys.platform == "darwin" else 2**10
    by_name = {record["path"]: record["seconds"] for record in records}
    return by_name, seconds, spent, usage.ru_maxrss / unit


def selected(photographs: Path, out: Path, count: int | None, reduction: float) -> Path:
    """Write the photographs to compare to a folder, smallest first; return it."""
    folder = out / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(photographs.glob("*.jpg"), key=lambda path: path.stat().st_size)[:count]
    for path in paths:
        image = Image.open(path).convert("RGB")
        size = (int(image.width / reduction), int(image.height / reduction))
        image = image if reduction == 1 else image.resize(size, Image.Resampling.LANCZOS)
        image.save(folder / path.name, quality=95)
    return folder


def compare(thin: str, dense: str, folder: Path, out: Path, engines: list[str]) -> None:
    """Print the table of one network."""
    stem = Path(thin).name
    words = ["-m", "thinlens", "restore", str(folder)]
    commands = {
        "thin": [*words, "--model", thin],
        "dense, engine": [*words, "--model", dense],
        "dense, torch": [*words, "--model", dense, "--engine", "torch"],
        "dense, ncnn": [__file__, "--by-ncnn", dense, str(folder)],
    }
    results = {}
    for number, (label, command_words) in enumerate(commands.items()):
        if label in engines:
            target = out / f"{stem}-{number}"
            results[label] = command([*command_words, "--out", str(target)], target)
    print(f"{stem} ({dense}), {torch.get_num_threads()} threads")
    print("| photograph | megapixels | " + " | ".join(results) + " |")
    print("|---|---|" + "---|" * len(results))
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            megapixels = image.width * image.height / 1e6
        row = " | ".join(f"{seconds[path.name]:.1f}" for seconds, *_ in results.values())
        print(f"| {path.stem} | {megapixels:.1f} | {row} |")
    for name, index in (("seconds", 1), ("CPU seconds", 2), ("peak MiB", 3)):
        row = " | ".join(f"{result[index]:.0f}" for result in results.values())
        print(f"| all: {name} | | {row} |", flush=True)


def main() -> None:
    """Print a table for every network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, metavar="THIN=DENSE")
    parser.add_argument("--engines", nargs="*", default=["thin", "dense, torch", "dense, ncnn"])
    parser.add_argument("--count", type=int, help="of photographs, the smallest files")
    parser.add_argument("--reduce", type=float, default=1, help="divides the sides")
    parser.add_argument("--by-ncnn", metavar="NETWORK", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by_ncnn:
        by_ncnn(options.by_ncnn, options.photographs, options.out)
        return
    folder = selected(options.photographs, options.out, options.count, options.reduce)
    for pair in options.networks:
        thin, _, dense = pair.partition("=")
        if thin == THIN_RFDN:
            thin = str(options.out / THIN_RFDN)
            if not Path(thin).exists():
                words = ["-m", "thinlens", "prune", dense, "--budget", "1/4", "--out", thin]
                subprocess.run([sys.executable, *words], check=True)
        compare(thin, dense, folder, options.out, options.engines)


if __name__ == "__main__":
    main()
