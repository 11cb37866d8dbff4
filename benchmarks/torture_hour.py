"""Restore in a loop for an hour: memory, open files and threads stay flat; resumable.

    python benchmarks/torture_hour.py --out OUT [--minutes 60] [--seed 0]

Photographs of random sizes, depths and formats, damaged ones among them, are restored again and
again, in the native engine (where it was built) and in torch, in one process. Each minute
OUT/hour.jsonl gets a line; the same command again goes on, in a new process, whose first minutes
its later ones are compared with. Growth stops it. The end prints a line for docs/reliability.md.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

# torch keeps the code of so many convolutions, each of one image size: by default 1,024, which an
# hour on a slow machine does not fill.
os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "64"

import torch
from PIL import Image

import thinlens
from thinlens.engine.native import native
from thinlens.files import JsonLines
from thinlens.machine_memory import resident_bytes
from thinlens.models import create
from thinlens.restoration.free_memory import return_large_blocks
from thinlens.tasks import make_task

WARM_MINUTES = 5
"""After which nothing may grow: until then plans, caches and heaps reach their sizes."""

MOST_GROWTH = 32 * 2**20
"""Bytes by which the memory of a process may differ from that after the warm minutes."""

PHOTOGRAPHS = 6
"""Restored at a time, and a damaged file."""

SIDES = (8, 320)
"""Least and largest side in pixels."""

FORMATS = [
    *(("png", 8, [3]), ("png", 8, []), ("png", 8, [4]), ("png", 16, [])),
    *(("jpg", 8, [3]), ("webp", 8, [3]), ("tif", 8, [3])),
]
"""Suffixes, bits a channel, and channels: RGB, grey, and RGB with alpha."""

MINUTE = 60.0


def write_photographs(folder: Path, chance: random.Random) -> None:
    """Write photographs of random sizes, depths and formats, and a damaged one."""
    for number in range(PHOTOGRAPHS):
        noise = np.random.default_rng(chance.randrange(2**32))
        suffix, bits, channels = chance.choice(FORMATS)
        shape = [chance.randint(*SIDES), chance.randint(*SIDES), *channels]
        values = noise.integers(0, 2**bits, shape).astype(f"uint{bits}")
        Image.fromarray(values).save(folder / f"{number}.{suffix}")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chance.randbytes(64))


def state() -> dict[str, int]:
    """Return what must not grow in this process."""
    files = len(list(Path("/proc/self/fd").iterdir()))
    return {"bytes": resident_bytes() or 0, "files": files, "threads": threading.active_count()}


def restore_for(seconds: float, place: Path, chance: random.Random) -> int:
    """Restore until the time is over; return the number of images."""
    task, images = make_task("sr", scale=2), 0
    end, engines = time.monotonic() + seconds, ["torch", *(["native"] if native() else [])]
    network = create("rfdn", width=8, attention_width=4, blocks=1, scale=2).eval()
    while time.monotonic() < end:
        source = place / "in"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        write_photographs(source, chance)
        for engine in engines:
            shutil.rmtree(place / "out", ignore_errors=True)
            result = thinlens.restore(network, source, place / "out", task=task, engine=engine)
            assert list(result.failures) == ["damaged.png"], result.failures
            assert result.done == PHOTOGRAPHS
            images += result.done + 1
    return images


def main() -> None:
    """Restore for the minutes that the log does not hold yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    return_large_blocks()  # else glibc's heap grows by tens of megabytes, with torch alone too
    log = JsonLines(flags.out / "hour.jsonl")
    lines: list[dict[str, Any]] = [x for x in log.read() if x["seed"] == flags.seed]
    own: list[dict[str, int]] = []
    for minute in range(len(lines), flags.minutes):
        chance = random.Random(f"{flags.seed} {minute}")
        images = restore_for(MINUTE, flags.out / "restored", chance)
        own.append(state())
        lines.append({"seed": flags.seed, "minute": minute, "images": images, **own[-1]})
        log.append(lines[-1], fsync=True)
        if len(own) > WARM_MINUTES:
            first, last = own[WARM_MINUTES - 1], own[-1]
            growth = last["bytes"] - first["bytes"]
            assert growth <= MOST_GROWTH, f"{growth} bytes more than after {WARM_MINUTES} minutes"
            for key in ("files", "threads"):
                assert last[key] <= first[key], f"{key}: {first[key]} became {last[key]}"
    warm = lines[WARM_MINUTES - 1 :]
    megabytes = [line["bytes"] / 2**20 for line in warm]
    print(
        f"{len(lines)} minutes of restoring: {sum(x['images'] for x in lines):,} images; after "
        f"{WARM_MINUTES} minutes {megabytes[0]:.0f} MiB, in the end {megabytes[-1]:.0f} (at most "
        f"{max(megabytes):.0f}); files {warm[0]['files']} and {warm[-1]['files']}, threads "
        f"{warm[0]['threads']} and {warm[-1]['threads']}; {datetime.now(UTC).date()}",
        flush=True,
    )


if __name__ == "__main__":
    main()
