"""Restoration of a folder: each image once, results whole, failures listed, resumable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import RunError, UsageError
from thinlens.images.decoding import open_photograph
from thinlens.images.reading import read_image
from thinlens.images.writing import write_png
from thinlens.restoration import free_memory, memory, memory_budget
from thinlens.restoration.folder import RestoreResult, restore_folder
from thinlens.restoration.sources import result_names
from thinlens.restoration.tiled import restore_image
from thinlens.signals import Interrupted
from thinlens.tasks import make_task

SR, GREY = make_task("sr", scale=2), make_task("denoise")


class Twice(nn.Module):
    """Repeats every pixel, times a weight."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.interpolate(x, scale_factor=2) * self.factor


class Invert(nn.Module):
    """A grey network: insists on one channel."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 1
        return 1 - x


def fill(folder: Path, *names: str, channels: int = 3) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(0)
    images = {}
    for name in names:
        images[name] = torch.randint(0, 256, (channels, 6, 8), generator=noise).to(torch.uint8)
        write_png(folder / name, images[name])
    return images


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


# --- One image ------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.5, 2))
def test_an_image_goes_through_and_is_clipped(height: int, width: int, factor: float) -> None:
    image = torch.rand(3, height, width)
    large = restore_image(Twice(factor), image)
    expected = (F.interpolate(image[None], scale_factor=2)[0] * factor).clamp(0, 1)
    torch.testing.assert_close(large, expected)
    assert not large.requires_grad


def test_colours_go_through_a_grey_network_channel_by_channel() -> None:
    image = torch.rand(3, 5, 4)
    torch.testing.assert_close(restore_image(Invert(), image, channels=1), 1 - image)


def test_the_mode_of_a_module_is_restored() -> None:
    module = nn.Sequential(nn.Dropout(0.9), nn.Dropout(0.9).eval())
    image = torch.rand(1, 4, 4)
    assert torch.equal(restore_image(module, image), image)
    assert [part.training for part in module.modules()] == [True, True, False]


def test_what_does_not_fit_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "available_bytes", lambda device: 10**4)
    with pytest.raises(UsageError, match=r"300x400 needs about 0\.0 GiB .* wanted more memory"):
        restore_image(Twice(), torch.rand(3, 400, 300))


def test_the_estimate_is_the_peak_of_the_activations() -> None:
    two = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 1, 1))
    image = torch.Size((1, 1, 320, 320))
    # The widest moment holds 8 + 2 channels of float32.
    expected = (8 + 2) * 4 * 320 * 320 * memory.WORKSPACE
    assert memory.peak_bytes(two, image) == pytest.approx(expected)


def test_free_memory_is_known_here() -> None:
    free = free_memory.available_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50


FULL = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), MemoryError(), FULL])
def test_running_out_of_memory_is_one_sentence(error: Exception) -> None:
    def network(x: Tensor) -> Tensor:
        raise error

    with pytest.raises(RunError, match="7x5 image does not fit into memory"):
        restore_image(network, torch.rand(3, 5, 7))


def test_an_error_of_the_network_itself_is_not_hidden() -> None:
    with pytest.raises(UsageError, match="cannot run on an image of 7x5 with 3 channels: Given"):
        restore_image(nn.Conv2d(1, 1, 1), torch.rand(3, 5, 7))


def test_nan_is_never_an_image() -> None:
    with pytest.raises(RunError, match="NaN or infinity"):
        restore_image(Twice(float("nan")), torch.rand(3, 5, 7))


# --- A folder -------------------------------------------------------------------------------------

parts = st.sampled_from(("", "x/")), st.sampled_from(("a", "A", "b", "a.png", "a.jpg"))
paths = st.builds("{}{}{}".format, *parts, st.sampled_from((".png", ".jpg", ".PNG")))


@given(st.lists(paths, unique=True))
def test_every_input_has_a_result_of_its_own(names: list[str]) -> None:
    outputs = result_names(names)
    assert list(outputs) == names
    assert len({output.casefold() for output in outputs.values()}) == len(
        {name.casefold() for name in names}
    )
    assert all(output.endswith(".png") for output in outputs.values())


def test_names_stay_short_where_they_can() -> None:
    outputs = result_names(["x/a.jpg", "b.jpg", "b.png"])
    assert outputs == {"x/a.jpg": "x/a.png", "b.jpg": "b.jpg.png", "b.png": "b.png.png"}


def test_a_folder_is_restored_and_recorded(tmp_path: Path) -> None:
    images = fill(tmp_path / "in", "a.png", "deep/b.png")
    outcome = restore_folder(Twice(), SR, tmp_path / "in", tmp_path / "out")
    assert (outcome.done, outcome.skipped, outcome.failures) == (2, 0, {})
    for name, image in images.items():
        expected = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(read_image(tmp_path / "out" / name), expected)
    first, second = lines(tmp_path / "out")
    assert (first["path"], second["path"]) == ("a.png", "deep/b.png")
    assert first["size"] == (tmp_path / "in" / "a.png").stat().st_size
    assert len(str(first["sha256"])) == 64
    assert first["error"] is None


def test_one_file_is_a_source_too(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a.png", "b.png")
    outcome = restore_folder(Twice(), SR, tmp_path / "in" / "b.png", tmp_path / "out")
    assert outcome.done == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"b.png", "manifest.jsonl"}


def test_nothing_is_done_twice_unless_something_changed(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, "a.png", "b.png", "c.png")

    def run(module: nn.Module) -> tuple[int, int]:
        outcome = restore_folder(module, SR, source, out)
        return outcome.done, outcome.skipped

    assert run(Twice()) == (3, 0)
    assert run(Twice()) == (0, 3)
    fill(source, "b.png", "x.png")  # b has other pixels now
    (out / "a.png").unlink()
    assert run(Twice()) == (3, 1)
    assert run(Twice(0.5)) == (4, 0)  # another network
    assert sorted(str(line["path"]) for line in lines(out))[:2] == ["a.png", "a.png"]
    assert run(Twice(0.5)) == (0, 4)
    assert [line["path"] for line in lines(out)] == ["a.png", "b.png", "c.png", "x.png"]


def test_a_half_written_line_is_forgotten(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a.png", "b.png")
    restore_folder(Twice(), SR, tmp_path / "in", tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-30])
    outcome = restore_folder(Twice(), SR, tmp_path / "in", tmp_path / "out")
    assert (outcome.done, outcome.skipped) == (1, 1)
    assert [line["path"] for line in lines(tmp_path / "out")] == ["a.png", "b.png"]


def test_bad_images_are_listed_and_the_others_done(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, "good.png", "z.png")
    (source / "empty.png").touch()
    (source / "text.png").write_text("hello")
    (source / "folder.png").mkdir()
    (source / "link.png").symlink_to("nowhere.png")
    (source / "cut.png").write_bytes((source / "good.png").read_bytes()[:60])
    outcome = restore_folder(Twice(), SR, source, out)
    assert outcome.done == 2
    assert sorted(outcome.failures) == [
        "cut.png", "empty.png", "folder.png", "link.png", "text.png"
    ]  # fmt: skip
    reasons = {line["path"]: line["error"] for line in lines(out)}
    assert {path: reasons[path] for path in outcome.failures} == outcome.failures
    assert outcome.timing is not None
    assert outcome.as_json() == {
        "done": 2, "failed": 5, "skipped": 0, "seconds": outcome.as_json()["seconds"],
        "not_taken": [], "failures": outcome.failures, "clipped": {}, **outcome.timing.as_json()
    }  # fmt: skip
    assert {p.name for p in out.iterdir()} == {"good.png", "z.png", "manifest.jsonl"}


def test_results_inside_the_source_are_no_inputs(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    for _ in range(2):
        outcome = restore_folder(Twice(), SR, tmp_path, tmp_path / "out")
    assert (outcome.done, outcome.skipped) == (0, 1)


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    with pytest.raises(UsageError, match="is the folder of the inputs"):
        restore_folder(Twice(), SR, tmp_path, tmp_path / "." / "")
    with pytest.raises(UsageError, match="is the folder of the inputs"):
        restore_folder(Twice(), SR, tmp_path / "a.png", tmp_path)


def test_no_source_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        restore_folder(Twice(), SR, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="holds no images"):
        (tmp_path / "in").mkdir()
        restore_folder(Twice(), SR, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_nothing_can_be_written_the_work_stops(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a.png")
    (tmp_path / "out").touch()
    with pytest.raises(RunError, match="cannot write"):
        restore_folder(Twice(), SR, tmp_path / "in", tmp_path / "out")


def test_colours_and_profiles_pass_through_a_grey_network(tmp_path: Path) -> None:
    image = fill(tmp_path / "in", "a.png")["a.png"]
    profile = bytes(16) + b"RGB " + bytes(108)
    write_png(tmp_path / "in" / "a.png", image, profile)
    restore_folder(Invert(), GREY, tmp_path / "in", tmp_path / "out")
    assert torch.equal(read_image(tmp_path / "out" / "a.png"), 255 - image)
    assert open_photograph(tmp_path / "out" / "a.png").metadata.icc == profile


def test_an_interrupt_finishes_the_image_at_hand(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a.png", "b.png", "c.png")

    class Interrupting(Twice):
        def forward(self, x: Tensor) -> Tensor:
            if self.calls == 2:  # after a.png, and noise on which its scale is confirmed
                signal.raise_signal(signal.SIGTERM)
            return super().forward(x)

    with pytest.raises(Interrupted) as stop:
        restore_folder(Interrupting(), SR, tmp_path / "in", tmp_path / "out")
    assert stop.value.exit_status == 143
    assert [line["path"] for line in lines(tmp_path / "out")] == ["a.png", "b.png"]
    again = restore_folder(Interrupting(), SR, tmp_path / "in", tmp_path / "out")
    assert (again.done, again.skipped) == (1, 2)


CHILD = """
import sys, time
from pathlib import Path
import torch
from torch.nn import functional as F
from thinlens.restoration.folder import restore_folder
from thinlens.tasks import make_task
print("go", flush=True)
slow = lambda x: (time.sleep(0.02), F.interpolate(x, scale_factor=2))[1]
restore_folder(slow, make_task("sr", scale=2), Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_and_started_again_every_image_is_done_once(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    images = fill(source, *(f"{index:03}.png" for index in range(40)))
    command = [sys.executable, "-c", CHILD, str(source), str(out)]
    for seconds in (0.15, 0.3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(seconds)
            child.kill()
        for result in out.glob("*.png"):
            assert read_image(result).shape == (3, 12, 16)  # none is half-written
    restore_folder(lambda x: F.interpolate(x, scale_factor=2), SR, source, out)
    assert [line["path"] for line in lines(out)] == list(images)
    for name, image in images.items():
        expected = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(read_image(out / name), expected)


def test_the_result_counts_failures() -> None:
    outcome = RestoreResult(1, 2, {"a": "b"}, 0.12345)
    counts = {"done": 1, "failed": 1, "skipped": 2, "seconds": 0.123}
    assert outcome.as_json() == {**counts, "not_taken": [], "failures": {"a": "b"}, "clipped": {}}
