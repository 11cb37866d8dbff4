"""Check an installed wheel: `thinlens restore` runs natively and gives what torch gives.

`python packaging/check_wheel.py` in an environment that has thinlens from a wheel; nothing of the
repository is imported, and no compiler is used.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import thinlens
from thinlens.engine.native import native

MODEL = "rfdn-x4"
WIDTH, HEIGHT, SCALE = 61, 47, 4


def restored(source: Path, folder: Path, engine: str) -> np.ndarray:
    """The image that the command writes, as whole numbers."""
    out = folder / engine
    words = [sys.executable, "-m", "thinlens", "restore", str(source), "--model", MODEL]
    words += ["--out", str(out), "--engine", engine, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        sys.exit(f"thinlens restore --engine {engine} failed: {done.stdout}{done.stderr}")
    json.loads(done.stdout)
    (image,) = out.rglob("*.png")
    return np.asarray(Image.open(image)).astype(int)


def main() -> None:
    """Restore an image by both engines and compare the results."""
    core = native()
    if core is None:
        sys.exit("the engine is not in the wheel")
    waves = np.add.outer(np.sin(np.arange(HEIGHT) / 5), np.cos(np.arange(WIDTH) / 3))
    pixels = np.stack([waves, waves[::-1], waves[:, ::-1]], axis=-1) * 60 + 128
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "waves.png"
        Image.fromarray(pixels.astype(np.uint8)).save(source)
        ours, theirs = (restored(source, folder, engine) for engine in ("native", "torch"))
    if ours.shape != (HEIGHT * SCALE, WIDTH * SCALE, 3) or np.abs(ours - theirs).max() > 1:
        sys.exit(f"native and torch differ: {ours.shape}, {np.abs(ours - theirs).max()} levels")
    kernels = core.available_kernels("fp32")
    print(f"{Path(str(thinlens.__file__)).parent}: {MODEL} restores natively by {kernels[-1]}")


if __name__ == "__main__":
    main()
