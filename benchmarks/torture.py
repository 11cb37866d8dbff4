"""Kills, full disks, fuzzed checkpoints and hostile images, as many as wanted; resumable.

    python benchmarks/torture.py --out OUT [--kills 1000] [--checkpoints 100000] [--images 10000]
        [--disks 200] [--seed 0] [--only "fuzzed checkpoints"]

Each kind runs in batches; OUT/torture.jsonl gets a line for each batch, and the same command again
continues after the last one. A lost or damaged result stops it with the seed of the batch. The end
prints one line for each kind, for docs/reliability.md. Kinds may run at the same time, by `--only`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import thinlens
from thinlens.checkpoints import format as checkpoint_format
from thinlens.errors import RunError, UsageError
from thinlens.experiments.networks import uniform_patterns
from thinlens.files import JsonLines
from thinlens.models import create
from thinlens.sparsity.masking import attach, strip
from thinlens.tasks import make_task

BATCH = 50
"""Cases of a line of the log."""

LONGEST_WAIT = 0.25
"""Seconds before a process is killed, at most."""

SHARED_IMAGES = 40
"""In the folder that processes restore while they are killed."""

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}

DENOISE = make_task("denoise")


def network(value: float = 0.1) -> torch.nn.Module:
    """Return a small network whose weights all have one value."""
    module = create("dncnn-17", depth=3, width=8)
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, value)
    return module.eval()


def killed_after(act: Callable[[], None], seconds: float) -> None:
    """Run `act` in a process of its own, killed by SIGKILL so many seconds after it began."""
    begun, begins = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(begins, b"1")
            act()
        finally:
            os._exit(0)
    os.read(begun, 1)
    for end in (begun, begins):
        os.close(end)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def kill_saves(place: Path, chance: random.Random) -> None:
    """Kill a process that saves without pause: the checkpoint is that before or after a save."""
    folder = place / "saved"
    thinlens.save(folder, network(0.0), model="dncnn-17", task=DENOISE)

    def save_on() -> None:
        for number in range(1, 10**6):
            thinlens.save(folder, network(float(number)), model="dncnn-17", task=DENOISE)

    killed_after(save_on, chance.uniform(0, LONGEST_WAIT))
    loaded = thinlens.load(folder)
    values = {float(x) for p in loaded.module.parameters() for x in p.detach().flatten()}
    assert len(values) == 1, f"half of a checkpoint: {values}"


def kill_restorations(place: Path, chance: random.Random) -> None:
    """Kill two of three processes that restore to one folder: nothing is lost or half-written."""
    source, out, module = place / "in", place / "out", network()
    if not source.is_dir():
        for index in range(SHARED_IMAGES):
            picture = np.random.default_rng(index).integers(0, 256, (24, 32), np.uint8)
            source.mkdir(exist_ok=True)
            Image.fromarray(picture).save(source / f"{index:03}.png")
        thinlens.restore(module, source, place / "alone", task=DENOISE, engine="torch")
    shutil.rmtree(out, ignore_errors=True)

    def restore() -> None:
        thinlens.restore(module, source, out, task=DENOISE, engine="torch")

    for _ in range(2):
        killed_after(restore, chance.uniform(0, LONGEST_WAIT))
    restore()
    paths = [line["path"] for line in JsonLines(out / "manifest.jsonl").read()]
    assert sorted(paths) == sorted(path.name for path in source.iterdir())
    for path in (place / "alone").glob("*.png"):
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name
    assert not list(out.glob(".*thinlens*")), "a temporary file or a claim stayed"


def fill_disk(place: Path, chance: random.Random) -> None:
    """Save where no file may have more than some bytes: one sentence, and the old checkpoint."""
    folder = place / "full"
    thinlens.save(folder, network(1.0), model="dncnn-17", task=DENOISE)
    size = sum(path.stat().st_size for path in folder.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (chance.randrange(size // 2), limits[1]))
    try:
        thinlens.save(folder, network(2.0), model="dncnn-17", task=DENOISE)
    except RunError as error:
        assert str(folder) in str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    thinlens.load(folder)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return bytes of which a few were changed, removed or repeated."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at : at + chance.randint(1, 60)]
            case 2:
                changed[at:at] = changed[at : at + chance.randint(1, 60)]
            case _:
                number = chance.choice((-1, 0, 255, 2**31, 2**63, "null", "[]", '"x"'))
                changed[at:at] = str(number).encode()
    return bytes(changed)


@functools.cache
def whole_checkpoint(place: Path) -> dict[str, bytes]:
    """Return the files of a checkpoint in which every encoding of pruned weights occurs."""
    module = create("dncnn-17", depth=5, width=16)
    sparse, sparser = uniform_patterns(module, 1, 4, 8), uniform_patterns(module, 1, 1, 16)
    patterns = {
        name: (sparse if number % 2 else sparser)[name] for number, name in enumerate(sparse)
    }
    attach(module, patterns)
    module, task = strip(module)[0], {"name": "denoise"}
    checkpoint_format.save(place / "whole", module, model="dncnn-17", task=task, patterns=patterns)
    return {path.name: path.read_bytes() for path in (place / "whole").iterdir()}


def fuzz_checkpoint(place: Path, chance: random.Random) -> None:
    """Load a checkpoint of which a file was damaged: it is refused, or whole.

    Half of the damaged tensors get the SHA-256 that belongs to them: else it alone refuses them.
    """
    folder, files = place / "fuzzed", dict(whole_checkpoint(place))
    folder.mkdir(exist_ok=True)
    name = chance.choice(("config.json", "model.safetensors", "model.safetensors"))
    files[name] = damaged(files[name], chance)
    if name == "model.safetensors" and chance.randrange(2):
        config = json.loads(files["config.json"])
        config["sha256"] = hashlib.sha256(files[name]).hexdigest()
        files["config.json"] = json.dumps(config).encode()
    for file, content in files.items():
        (folder / file).unlink(missing_ok=True)  # some disks flush a file that is truncated
        (folder / file).write_bytes(content)
    try:
        thinlens.load(folder)
    except UsageError as error:
        assert "\n" not in str(error), error


def hostile_images(place: Path, chances: Sequence[random.Random]) -> None:
    """Restore damaged images: each is listed with a reason, or restored."""
    source, out = place / "hostile", place / "hostile-out"
    for folder in (source, out):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir()
    for number, chance in enumerate(chances):
        kind = chance.choice(list(FORMATS))
        file, picture = io.BytesIO(), np.random.default_rng(chance.randrange(99))
        Image.fromarray(picture.integers(0, 256, (16, 20, 3), np.uint8)).save(file, kind)
        (source / f"{number}{FORMATS[kind]}").write_bytes(damaged(file.getvalue(), chance))
    result = thinlens.restore(network(), source, out, task=DENOISE, engine="torch")
    assert result.done + len(result.failures) == len(chances)
    lines = {line["path"]: line for line in JsonLines(out / "manifest.jsonl").read()}
    assert lines.keys() == {path.name for path in source.iterdir()}
    for line in lines.values():
        assert line["error"] or (out / line["output"]).stat().st_size == line["output_size"]


Act = Callable[[Path, Sequence[random.Random]], None]


def one_by_one(act: Callable[[Path, random.Random], None]) -> Act:
    """Return what tries the cases of a batch one after another."""

    def acts(place: Path, chances: Sequence[random.Random]) -> None:
        for number, chance in enumerate(chances):
            try:
                act(place, chance)
            except Exception:
                print(f"case {number} of the batch failed")
                raise

    return acts


KINDS: dict[str, Act] = {
    "kills while saving": one_by_one(kill_saves),
    "kills while restoring": one_by_one(kill_restorations),
    "full disks": one_by_one(fill_disk),
    "fuzzed checkpoints": one_by_one(fuzz_checkpoint),
    "hostile images": hostile_images,
}


def run(kind: str, count: int, out: Path, seed: int) -> None:
    """Run the cases of a kind that the log does not hold yet, and log each batch."""
    log = JsonLines(out / "torture.jsonl")
    lines = [x for x in log.read() if (x.get("kind"), x.get("seed")) == (kind, seed)]
    done, seconds = sum(x["cases"] for x in lines), sum(x["seconds"] for x in lines)
    place = out / kind.replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    while done < count:
        start, cases = time.monotonic(), min(BATCH, count - done)
        chances = [random.Random(f"{seed} {kind} {done + case}") for case in range(cases)]
        try:
            KINDS[kind](place, chances)
        except Exception:
            print(f"{kind}: batch {done} of seed {seed} failed, its files are in {place}")
            raise
        passed = round(time.monotonic() - start, 3)
        log.append({"kind": kind, "seed": seed, "cases": cases, "seconds": passed}, fsync=True)
        done, seconds = done + cases, seconds + passed
    today = datetime.now(UTC).date()
    print(f"{kind}: 0 of {done:,} failed, {seconds:,.0f} s, {today}", flush=True)


def main() -> None:
    """Run all kinds in the sizes of the flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--checkpoints", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--disks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, action="append")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (flags.kills // 2, flags.kills // 2, flags.disks, flags.checkpoints, flags.images)
    for kind, count in zip(KINDS, sizes, strict=True):
        if kind in (flags.only or KINDS):
            run(kind, count, flags.out, flags.seed)
    print(json.dumps({"machine": os.uname().machine, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
