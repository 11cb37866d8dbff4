"""The server over HTTP: results of `restore`, one queue, limits, and one sentence for bad input."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cli_cases import run, sr_checkpoint
from serve_cases import BOUNDARY, RunningServer, SteppedTable, form, opened, png, running_server
from thinlens.cli import serve as serve_command
from thinlens.errors import RunError, UsageError
from thinlens.restoration import job
from thinlens.serve.app import ServerApp
from thinlens.serve.band_preview import BandPreview
from thinlens.serve.limits import ServerLimits
from thinlens.serve.networks import NetworkChoice, NetworkTable
from thinlens.serve.server import FOLDER_PREFIX, temporary_folder
from thinlens.serve.views import write_view

ROOT = Path(__file__).parents[1]
GOLDEN_BUNDLE = ROOT / "tests" / "golden" / "bundle-format-1" / "bundle"
LIMITS = ServerLimits(pixels=10_000, bytes=100_000, waiting=3, seconds=20, results=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the server of this module has its temporary folder."""
    before, path = tempfile.tempdir, tmp_path_factory.mktemp("temporary")
    tempfile.tempdir = str(path)
    yield path
    assert not list(path.glob(f"{FOLDER_PREFIX}*"))  # the server has removed its folder
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def table(folder: Path) -> SteppedTable:
    return SteppedTable()


@pytest.fixture(scope="module")
def started(table: SteppedTable) -> Iterator[RunningServer]:
    with running_server(table, LIMITS) as running:
        yield running


@pytest.fixture
def server(started: RunningServer, table: SteppedTable) -> Iterator[RunningServer]:
    table.gate.set()
    yield started
    table.gate.set()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sr_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def photograph(suffix: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, suffix, exif=exif, dpi=(300, 300), **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "chosen"), [("JPEG", "png"), ("PNG", "same"), ("WEBP", "jpeg")])
def test_a_result_is_that_of_restore_to_the_byte(
    kind: str, chosen: str, checkpoint: Path, tmp_path: Path
) -> None:
    source = tmp_path / f"a.{kind.lower()}"
    source.write_bytes(photograph(kind))
    options = ("--engine", "torch", "--format", chosen)
    run("restore", source, "--model", checkpoint, "--out", tmp_path / "out", *options)
    (expected,) = [x for x in (tmp_path / "out").iterdir() if x.suffix != ".jsonl"]
    with running_server(NetworkTable([str(checkpoint)], engine="torch")) as server:
        sent = {"name": source.name, "network": "tiny", "format": chosen}
        answer = server.send(source.read_bytes(), "/restore", **sent)
    assert answer.status == 200
    assert answer.body == expected.read_bytes()
    assert answer.headers["content-disposition"] == f'attachment; filename="{expected.name}"'
    assert opened(answer.body).getexif()[0x010F] == "A camera"
    assert answer.headers["content-type"] == Image.MIME[opened(answer.body).format or ""]


def test_an_image_is_followed_from_its_upload_to_its_removal(
    server: RunningServer, table: SteppedTable, folder: Path
) -> None:
    table.gate.clear()
    content = png()
    sent = server.send(content)
    assert sent.status == 202
    address = f"/jobs/{sent.json['id']}"
    running = server.when(address, "running")
    while not (running["preview"] and running["preview"]["rows"]):
        running = server.ask(address).json
    assert running["preview"] == {"width": 64, "height": 80, "rows": 16}
    assert running["progress"] == pytest.approx(0.2)
    assert running["size"] == [32, 40]
    assert running["result_size"] == [64, 80]
    strip = opened(server.ask(f"{address}/preview?start=4").body)
    assert server.ask(f"{address}/result").status == 409
    table.gate.set()
    done = server.when(address, "done")
    result = server.ask(f"{address}/result")
    pixels = np.asarray(opened(result.body))
    expected = np.asarray(opened(content)).repeat(2, 0).repeat(2, 1)
    assert (pixels == expected).all()
    assert (np.asarray(strip) == expected[4:16]).all()
    assert done["bytes"] == len(result.body)
    assert done["view_size"] == [64, 80]
    for which in ("input", "result"):
        assert opened(server.ask(f"{address}/views/{which}").body).size == (64, 80)
    assert server.ask(f"{address}/preview").status == 204
    (images,) = folder.glob(f"{FOLDER_PREFIX}*")
    assert (images / sent.json["id"]).is_dir()
    assert server.ask(address, "DELETE").status == 204
    assert not (images / sent.json["id"]).exists()
    assert server.ask(address).status == 404


def test_images_are_restored_one_after_another_and_too_many_are_refused(
    server: RunningServer, table: SteppedTable
) -> None:
    table.gate.clear()
    addresses = [f"/jobs/{server.send(png(seed=i)).json['id']}" for i in range(3)]
    server.when(addresses[0], "running")
    state = server.ask(addresses[2]).json
    assert (state["state"], state["waiting_before"]) == ("waiting", 2)
    assert state["expected_wait"] > 0
    full = server.send(png())
    assert full.status == 503
    assert full.json["error"].startswith("the queue is full: 3 images are not finished")
    assert int(full.headers["retry-after"]) > 0
    assert server.ask(addresses[1], "DELETE").status == 204
    assert server.send(png()).status == 202
    table.gate.set()
    for seed in (0, 2):
        server.when(addresses[seed], "done")
        pixels = np.asarray(opened(server.ask(f"{addresses[seed]}/result").body))
        assert (pixels[::2, ::2] == np.asarray(opened(png(seed=seed)))).all()


def test_a_running_image_is_canceled_at_its_next_band(
    server: RunningServer, table: SteppedTable, folder: Path
) -> None:
    table.gate.clear()
    identity = server.send(png()).json["id"]
    server.when(f"/jobs/{identity}", "running")
    assert server.ask(f"/jobs/{identity}", "DELETE").status == 204
    table.gate.set()
    following = server.send(png()).json["id"]
    server.when(f"/jobs/{following}", "done")
    (images,) = folder.glob(f"{FOLDER_PREFIX}*")
    assert not (images / identity).exists()


def test_a_result_that_cannot_be_written_is_one_sentence(
    server: RunningServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *rest: object) -> None:
        raise RunError(f"cannot write {path}: no space on the disk")

    with monkeypatch.context() as patched:
        patched.setattr(job, "write_content", full)
        answer = server.send(png(), "/restore")
    assert answer.status == 422
    assert answer.json["error"] == "cannot write photo.png: no space on the disk"
    assert server.send(png(), "/restore").status == 200


@pytest.mark.parametrize(
    ("content", "name", "status", "sentence"),
    [
        (b"no image", "a.png", 415, "cannot read a.png: it is not one of PNG"),
        (b"", "a.png", 400, "wanted one image in the field image, not an empty file"),
        (None, "", 400, "wanted one image in the field image, not no files"),
        (png(101, 100), "large.png", 415, "large.png has 100x101 pixels: wanted at most 10000"),
        (bytes(200_000), "a.png", 413, "the file is too large: wanted at most 100,000 bytes"),
        (png()[:-40], "../cut.png", 415, "cannot read cut.png"),
    ],
)
def test_a_bad_upload_is_one_sentence(
    content: bytes | None,
    name: str,
    status: int,
    sentence: str,
    server: RunningServer,
    folder: Path,
) -> None:
    answer = server.send(content, name=name)
    assert answer.status == status
    assert answer.json["error"].startswith(sentence)
    assert str(folder) not in answer.json["error"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"network": "none"}, "network 'none': wanted stepped or bundled"),
        ({"network": ""}, "wanted the field network"),
        ({"precision": "fp8"}, "precision 'fp8': wanted"),
        ({"format": "gif"}, "--format 'gif': wanted"),
        ({"image_budget": "30%"}, "image budget and beta are for bundles"),
        ({"beta": "0.3"}, "image budget and beta are for bundles"),
        ({"network": "bundled", "image_budget": "much"}, "--image-budget 'much': wanted"),
        ({"network": "bundled", "beta": "much"}, "beta 'much': wanted a number"),
        ({"network": "bundled", "beta": "-1"}, "--beta -1.0: wanted a number of 0 or more"),
        ({"network": "bundled", "beta": "nan"}, "--beta nan: wanted a number of 0 or more"),
        ({"network": "bundled", "beta": "0", "image_budget": "30%"}, "--beta and --image-budget"),
    ],
)
def test_a_bad_option_is_one_sentence(
    fields: dict[str, str], sentence: str, server: RunningServer
) -> None:
    answer = server.send(png(), **fields)
    assert answer.status == 400
    assert answer.json["error"].startswith(sentence)


def test_other_forms_are_one_sentence(server: RunningServer) -> None:
    assert server.ask("/jobs", "POST", b"a=b").status == 415
    kind = "multipart/form-data; boundary=x"
    damaged = server.ask("/jobs", "POST", b"--y\r\n", Content_Type=kind)
    assert damaged.status == 400
    assert server.ask("/nothing").json == {"error": "there is nothing at this address"}
    assert server.ask("/assets/../app.py").status == 404
    end = len(f"--{BOUNDARY}--\r\n")
    two = form(png(), "a.png", {})[:-end] + form(png(), "b.png", {})
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    answer = server.ask("/jobs", "POST", two, Content_Type=kind)
    assert answer.json["error"] == "wanted one image in the field image, not 2 files"
    page = server.send(b"no image", "/restore", headers={"Accept": "text/html"})
    assert page.status == 415
    assert "cannot read photo.png" in page.body.decode()


@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_a_damaged_form_is_a_refusal_and_nothing_worse(
    started: RunningServer, place: int, value: int, cut: bool
) -> None:
    whole = form(png(8, 8), "a.png", {"network": "stepped", "format": "png"})
    place %= len(whole)
    body = whole[:place] + (b"" if cut else bytes([value]) + whole[place + 1 :])
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    answer = started.ask("/restore", "POST", body, Content_Type=kind)
    assert answer.status in (200, 400, 415, 422)
    assert answer.status == 200 or re.fullmatch(r"[^\n]+", answer.json["error"])


def test_an_image_that_takes_too_long_ends(checkpoint: Path) -> None:
    table = SteppedTable()
    table.gate.clear()
    with running_server(table, ServerLimits(seconds=0.2)) as server:
        address = f"/jobs/{server.send(png()).json['id']}"
        time.sleep(0.3)
        table.gate.set()
        assert server.when(address, "failed")["error"].startswith("it took more than 0.2 s")
        assert server.ask(f"{address}/result").status == 422


def test_old_results_make_room_for_new_ones() -> None:
    with running_server(SteppedTable(), ServerLimits(results=1)) as server:
        addresses = [f"/jobs/{server.send(png()).json['id']}" for _ in range(3)]
        server.when(addresses[2], "done")
        server.ask("/estimate?network=stepped&width=1&height=1&precision=bf16")  # wakes the queue
        deadline = time.monotonic() + 10
        while server.ask(addresses[0]).status != 404:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.ask(addresses[2]).status == 200


def test_a_model_that_vanishes_is_one_sentence(tmp_path: Path) -> None:
    folder = sr_checkpoint(tmp_path / "moved")
    with running_server(NetworkTable([str(folder)], engine="torch")) as server:
        folder.rename(tmp_path / "elsewhere")
        query = "/estimate?network=moved&width=800&height=600"
        while (answer := server.ask(query)).status == 200:
            time.sleep(0.02)
        assert "is not a checkpoint" in answer.json["error"]
        address = f"/jobs/{server.send(png(), network='moved').json['id']}"
        assert "is not a checkpoint" in server.when(address, "failed")["error"]
        (tmp_path / "elsewhere").rename(folder)
        address = f"/jobs/{server.send(png(), network='moved').json['id']}"
        server.when(address, "done")  # nothing was lost
        assert server.ask(query).json["seconds"] > 0


def test_pages_of_other_sites_are_refused(server: RunningServer) -> None:
    assert server.ask("/", Host="evil.example").status == 421
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert server.send(png(), headers=headers).status == 403
    own = server.send(png(), "/restore", headers={"Origin": server.url})
    assert own.status == 200


def test_the_document_describes_every_request_and_answer(
    server: RunningServer, table: SteppedTable
) -> None:
    document = server.ask("/openapi.json").json
    described = {
        (path, method)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    app = ServerApp(None, table, LIMITS).asgi(None)  # type: ignore[arg-type]
    routes = {
        (route.path, method.lower())
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert described == routes
    schemas = document["components"]["schemas"]
    job = server.send(png()).json
    assert list(schemas["Job"]["properties"]) and set(schemas["Job"]["properties"]) == set(job)
    (network, *_) = server.ask("/networks").json["networks"]
    assert set(schemas["Network"]["properties"]) == set(network)


def test_the_page_needs_nothing_else(server: RunningServer) -> None:
    answer = server.ask("/")
    page = answer.body.decode()
    links = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert {link for link in links if not link.startswith("/")} == {"data:,"}
    for link in links:
        if link.startswith("/assets/"):
            assert server.ask(link).status == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    details = "enlarges 2 times, 1/4 of the multiply-adds kept, 1,000 bytes"
    option = f'<option value="stepped" data-details="{details}" selected>stepped (x2, 1/4)</option>'
    assert option in page


@given(st.integers(1, 1500), st.integers(1, 40), st.lists(st.integers(1, 300), min_size=1))
def test_a_preview_does_not_depend_on_the_bands(height: int, width: int, cuts: list[int]) -> None:
    image = torch.randint(256, (4, height, width), dtype=torch.uint8)
    preview, top = BandPreview((4, height, width)), 0
    for rows in (cuts * height)[:height]:
        if top < height:
            preview.add(image[:, top : top + rows])
            top += rows
    step = -(-max(height, width) // 640)
    content = preview.png(0)
    assert content is not None
    picture = torch.from_numpy(np.array(opened(content))).permute(2, 0, 1)
    assert torch.equal(picture, image[:3, ::step, ::step])
    assert preview.share == 1
    assert preview.png(preview.rows) is None


def test_a_bundle_runs_within_an_image_budget() -> None:
    table = NetworkTable([str(GOLDEN_BUNDLE)], engine="torch")
    entry = table.entries[0]
    assert entry.is_bundle
    choice = NetworkChoice(entry.name, image_budget="30%")
    assert table.running(choice) is table.running(choice)
    assert table.speed(choice) is None  # noise may exceed the budget
    table.running(choice.plain)
    assert table.speed(choice) == table.speed(choice.plain)
    assert (table.speed(choice) or 0) > 0
    best = NetworkChoice(entry.name, beta=0.0)
    assert table.running(best).restorer.identities() != table.running(choice).restorer.identities()
    with pytest.raises(UsageError, match="network 'other'"):
        table.check(NetworkChoice("other"))


def test_folders_of_killed_servers_are_removed_and_of_running_ones_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / f"{FOLDER_PREFIX}killed"
    (killed / "image").mkdir(parents=True)
    with temporary_folder() as first, temporary_folder() as second:
        assert not killed.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_view_is_what_a_browser_shows(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
    wide = Image.fromarray(values.astype(np.uint16) * 257)
    image = wide if mode == "I;16" else Image.fromarray(values).convert("RGB").convert(mode)
    source = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(source)
    write_view(source, tmp_path / "view.png", (12, 20))
    write_view(source, tmp_path / "whole.png", (24, 40))
    with Image.open(tmp_path / "view.png") as view, Image.open(tmp_path / "whole.png") as whole:
        assert view.size == (20, 12)
        assert view.mode == whole.mode == ("L" if mode in ("1", "L", "LA", "I;16") else "RGB")
        if mode in ("L", "I;16", "RGB"):
            assert (np.asarray(whole.convert("L")) == values).all()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--model", "no-such-folder"), "no-such-folder is not a checkpoint"),
        (("--port", 70_000), "--port 70000: wanted 0 to 65535"),
        (("--host", "nowhere.invalid", "--port", 0), "--host nowhere.invalid: no address"),
        (("--max-bytes", "much"), "--max-bytes 'much': wanted a size"),
        (("--max-jobs", 0), "--max-jobs 0: wanted more than 0"),
        (("--engine", "fast"), "--engine 'fast': wanted"),
    ],
)
def test_a_bad_flag_is_one_sentence(flags: tuple[object, ...], sentence: str) -> None:
    port = () if "--port" in flags else ("--port", 0)
    ran = run("serve", *flags, *port)
    assert ran.status == 2
    assert ran.err.splitlines()[-1].startswith(f"thinlens: {sentence}")


def test_a_port_in_use_and_a_missing_extra_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = run("serve", "--port", port, "--json")
    assert ran.status == 2
    assert ran.json["error"].startswith(f"port {port} of 127.0.0.1: another program uses it")
    monkeypatch.setattr(serve_command, "PACKAGES", ("no_such_package",))
    ran = run("serve")
    assert ran.status == 2
    assert "pip install 'thinlens[serve]'" in ran.err


def test_the_command_ends_with_its_folder_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thinlens", "serve", "--port", "0", "--json"]
    command += ["--host", "0.0.0.0", "--engine", "torch"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(tmp_path)),
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    warning = process.stderr.readline()
    port = int(re.fullmatch(r"http://0\.0\.0\.0:(\d+) \(Ctrl-C ends it\)\n", first)[1])  # type: ignore[index]
    assert "there is no password" in warning
    server = RunningServer(port, f"http://127.0.0.1:{port}")
    assert server.send(b"no image", network="rfdn-x4").status == 415
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out) == {
        "host": "0.0.0.0",
        "port": port,
        "done": 0,
        "failed": 0,
        "canceled": 0,
    }
    assert not list(tmp_path.iterdir())


def environment(**variables: str) -> dict[str, str]:
    import os

    return {**os.environ, **variables}
