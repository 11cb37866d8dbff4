"""Time and memory of merging the manifests of many images, as `restore` does when it starts again.

    python benchmarks/manifest_merge.py --out OUT [--lines 10000000] [--manifests 8]

Writes manifests of so many lines to OUT (500 bytes a line), of which one in ten is superseded by a
later line in the same manifest, compacts one in a process of its own, reads them as one, and looks
inputs up. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from thinlens.restoration.manifest import ManifestRecord, ResultManifest, compact_manifest

REPEATED = 10
"""One line in so many is written twice: first with an error."""

LOOK_UPS = 10_000

GIBIBYTE = 2**30


def name_of(number: int) -> str:
    """Return the name of an input."""
    return f"photographs/{number % 1000:03}/{number:08}.jpg"


def write_lines(folder: Path, lines: int, manifests: int) -> int:
    """Write the manifests that are not there; return their bytes."""
    fields = asdict(ManifestRecord("NAME", 2_345_678, "SHA", "NETWORK", "OUTPUT", 1.234))
    fields |= {"network": "a" * 64, "output_size": 34_567_890, "output_sha256": "OUT"}
    template = json.dumps(fields) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for manifest in range(manifests):
        path = folder / f"manifest-{manifest + 1}-of-{manifests}.jsonl"
        if path.exists():
            continue
        with path.open("w") as file:
            for number in range(manifest, lines, manifests):
                name, digest = name_of(number), f"{number:064x}"
                line = template.replace("NAME", name).replace("SHA", digest)
                line = line.replace("OUTPUT", name[:-3] + "png")
                if number % (REPEATED * manifests) == manifest:
                    file.write(line.replace('"error": null', '"error": "interrupted"'))
                file.write(line.replace('"OUT"', f'"{digest}"'))
    return sum(path.stat().st_size for path in folder.glob("manifest*.jsonl"))


def merge(pipe: Connection, folder: Path, lines: int, manifests: int) -> None:
    """Read the manifests as one, compact one of them, look inputs up; send figures."""
    before, start = peak(), time.monotonic()
    written = f"manifest-1-of-{manifests}.jsonl"
    compact_manifest(folder / written)
    compacted = time.monotonic()
    manifest = ResultManifest(folder, written)
    read = time.monotonic()
    for number in range(0, lines, max(1, lines // LOOK_UPS)):
        name = name_of(number)
        record = ManifestRecord(name, 0, f"{number:064x}", "a" * 64, name[:-3] + "png", 0.0)
        if manifest.earlier(record.path) is None:
            raise SystemExit(f"{name} is in no manifest")
    looked_up = time.monotonic()
    pipe.send(
        {
            "compact_s": round(compacted - start, 1),
            "read_s": round(read - compacted, 1),
            "look_up_us": round((looked_up - read) / min(lines, LOOK_UPS) * 1e6, 1),
            "peak_gib": round(peak(), 3),
            "peak_before_gib": round(before, 3),
        }
    )


def peak() -> float:
    """Return the most memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIBIBYTE


def main() -> None:
    """Write, merge, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--manifests", type=int, default=8)
    flags = parser.parse_args()
    size = write_lines(flags.out, flags.lines, flags.manifests)
    fresh = multiprocessing.get_context("spawn")  # whose peak is its own
    ours, theirs = fresh.Pipe()
    process = fresh.Process(target=merge, args=(theirs, flags.out, flags.lines, flags.manifests))
    process.start()
    figures = ours.recv()
    process.join()
    print(json.dumps({"lines": flags.lines, "gib": round(size / GIBIBYTE, 2), **figures}))


if __name__ == "__main__":
    main()
