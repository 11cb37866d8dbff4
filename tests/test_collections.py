"""Collections beyond one process: an object store (a local S3), and workers on a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.cli.main import main
from thinlens.errors import RunError, UsageError
from thinlens.images.writing import write_png
from thinlens.restoration import object_sources, results
from thinlens.restoration.folder import RestoreResult, restore_folder
from thinlens.restoration.object_stores import object_url
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.ray_workers import RayCluster
from thinlens.tasks import make_task

SR = make_task("sr", scale=2)
IMAGES = 8


class Lethal(nn.Module):
    """Repeats every pixel; ends its process where `trap` says so, as kill -9 does."""

    def __init__(self, trap: Path | None = None) -> None:
        super().__init__()
        self.weight, self.trap = nn.Parameter(torch.ones(1)), trap

    def forward(self, x: Tensor) -> Tensor:
        if self.trap is not None and x.shape[-1] == 9:  # only one image is so wide
            deaths = len(list(self.trap.iterdir()))
            if deaths < 1:
                (self.trap / str(deaths)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return F.interpolate(x, scale_factor=2) * self.weight


def fill(folder: Path) -> list[str]:
    noise = torch.Generator().manual_seed(0)
    names = [f"{'x/' * (index % 2)}{index:02}.png" for index in range(IMAGES)]
    for index, name in enumerate(names):
        width = 9 if index == 3 else 8
        picture = torch.randint(0, 256, (3, 6, width), generator=noise).to(torch.uint8)
        write_png(folder / name, picture)
    (folder / "bad.png").write_bytes(b"no image")
    return sorted([*names, "bad.png"])


def results_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.png")
        if path.is_file()
    }


def lines_in(folder: Path) -> list[str]:
    manifests = folder.glob("manifest*.jsonl")
    return sorted(
        json.loads(x)["path"] for path in manifests for x in path.read_text().splitlines()
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, bytes]]:
    """Images, their names, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("collection")
    names = fill(folder / "in")
    restore_folder(Lethal(), SR, folder / "in", folder / "out")
    return folder / "in", names, results_in(folder / "out")


# --- Object stores --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "url"),
    [
        (Path("s3://bucket/a/b"), "s3://bucket/a/b"),
        ("gs://b", "gs://b"),
        ("photos/a", None),
        ("C:/photos", None),
        ("/a/s3:/b", None),
    ],
)
def test_what_is_a_url(path: str | Path, url: str | None) -> None:
    assert object_url(path) == url


@dataclass
class Bucket:
    """A bucket of a local S3."""

    url: str

    def put(self, folder: Path, prefix: str) -> str:
        import s3fs

        files = s3fs.S3FileSystem()
        for path in folder.rglob("*"):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                files.put_file(str(path), f"{self.url}/{prefix}/{name}")
        return f"{self.url}/{prefix}"

    def get(self, prefix: str, folder: Path) -> Path:
        import s3fs

        files = s3fs.S3FileSystem(use_listings_cache=False)
        root = f"{self.url}/{prefix}".removeprefix("s3://")
        for path in files.find(root):
            target = folder / path[len(root) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(path, str(target))
        return folder


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    reason = "a local S3 needs the packages moto[s3], flask, flask-cors and s3fs"
    pytest.importorskip("s3fs", reason=reason)
    server_module = pytest.importorskip("moto.server", reason=reason)
    import s3fs

    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("photographs")
        yield Bucket("s3://photographs")
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_bucket_gives_what_a_folder_gives(
    bucket: Bucket,
    alone: tuple[Path, list[str], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, names, expected = alone
    monkeypatch.setattr(results, "MANIFEST_LINES", 3)  # several objects
    url, out = bucket.put(source, "in"), f"{bucket.url}/out"
    first = restore_folder(Lethal(), SR, Path(url), Path(out))
    assert (first.done, first.skipped, list(first.failures)) == (IMAGES, 0, ["bad.png"])
    there = bucket.get("out", tmp_path / "there")
    assert results_in(there) == expected
    assert lines_in(there) == names
    assert len(list(there.glob("manifest*.jsonl"))) == 3
    again = restore_folder(Lethal(), SR, Path(url), Path(out))  # from listings alone
    assert (again.done, again.skipped, list(again.failures)) == (0, IMAGES, ["bad.png"])

    write_png(tmp_path / "new" / "00.png", torch.zeros(3, 6, 8, dtype=torch.uint8))
    bucket.put(tmp_path / "new", "in")
    changed = restore_folder(Lethal(), SR, Path(url), Path(out))
    assert (changed.done, changed.skipped) == (1, IMAGES - 1)


def test_a_bucket_and_a_folder_mix(
    bucket: Bucket, alone: tuple[Path, list[str], dict[str, bytes]], tmp_path: Path
) -> None:
    source, names, expected = alone
    url = bucket.put(source, "mixed")
    to_folder = restore_folder(Lethal(), SR, Path(url), tmp_path / "out")
    assert (to_folder.done, len(to_folder.failures)) == (IMAGES, 1)
    assert results_in(tmp_path / "out") == expected
    assert lines_in(tmp_path / "out") == names
    shards = [
        restore_folder(
            Lethal(), SR, source, Path(f"{bucket.url}/s"), options=RestoreOptions(shard=x)
        )
        for x in ("1/2", "2/2")
    ]
    assert sum(result.done for result in shards) == IMAGES
    assert results_in(bucket.get("s", tmp_path / "s")) == expected


def test_what_a_store_refuses_is_a_sentence(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="s3://photographs/none holds no images"):
        restore_folder(Lethal(), SR, Path(f"{bucket.url}/none"), tmp_path)
    with pytest.raises(RunError, match="cannot list s3://missing/x: "):
        restore_folder(Lethal(), SR, Path("s3://missing/x"), tmp_path)
    write_png(tmp_path / "in" / "a.png", torch.zeros(3, 6, 8, dtype=torch.uint8))
    with pytest.raises(RunError, match="s3://missing/out"):
        restore_folder(Lethal(), SR, tmp_path / "in", Path("s3://missing/out"))


def test_a_name_that_would_be_a_file_elsewhere_is_listed_and_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a bucket of others, `photos//etc/a.png` may lie below `photos`."""
    state = object_sources.ObjectState(9, None, "")

    class Bucket:
        url = "s3://bucket/photos"

        def __init__(self, url: str) -> None: ...

        def list(self) -> dict[str, object_sources.ObjectState]:
            return dict.fromkeys(["a.png", "/etc/b.png", "x//c.png", "x/../../d.png"], state)

    monkeypatch.setattr(object_sources, "ObjectFolder", Bucket)
    sources = object_sources.collect_objects([Path("s3://bucket/photos")], tmp_path)
    assert list(sources.names) == ["a.png"]
    assert sources.unreadable.keys() == {"/etc/b.png", "x//c.png"}  # hidden names are not taken


def test_a_dry_run_takes_files(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["restore", "s3://photographs/in", "--model", "rfdn-x4", "--out", "x", "--dry-run"]
    assert main([*words, "--engine", "torch"]) == 2
    assert "s3://photographs/in is on an object store" in capsys.readouterr().err


# --- Workers --------------------------------------------------------------------------------------


def on_ray(source: Path, out: Path, trap: Path) -> RestoreResult:
    pytest.importorskip("ray", reason="restore --ray needs the package ray")
    trap.mkdir()
    cluster = RayCluster("local", 2, lambda: Lethal(trap), SR.channels)
    return restore_folder(Lethal(), SR, source, out, cluster=cluster)


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_give_what_one_process_gives(
    bucket: Bucket,
    alone: tuple[Path, list[str], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import this file
    source, names, expected = alone
    out, trap = tmp_path / "out", tmp_path / "trap"
    ran = on_ray(source, out, trap)
    assert len(list(trap.iterdir())) == 1  # a worker was killed
    assert (ran.done + ran.skipped, list(ran.failures)) == (IMAGES, ["bad.png"])
    assert results_in(out) == expected
    assert lines_in(out) == names
    assert len(list(out.glob("manifest-worker-*.jsonl"))) == 2
    assert not list(out.glob(".*thinlens*"))

    url = bucket.put(source, "ray-in")
    ran = on_ray(Path(url), Path(f"{bucket.url}/ray"), tmp_path / "other")
    assert (ran.done, list(ran.failures)) == (IMAGES, ["bad.png"])
    there = bucket.get("ray", tmp_path / "there")
    assert results_in(there) == expected
    assert lines_in(there) == names


def test_workers_need_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["restore", str(tmp_path), "--model", "rfdn-x4", "--out", str(tmp_path / "out")]
    assert main([*words, "--workers", "2"]) == 2
    assert "wanted --ray too" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--workers 0"):
        RayCluster("local", 0, Lethal, 3)
