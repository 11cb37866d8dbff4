"""A file is written whole or not at all, whatever happens."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinlens.errors import RunError
from thinlens.files import JsonLines, atomic_write, write_json
from thinlens.temporary_files import OTHER_HOST_SECONDS, sweep_leftovers, temporary_prefix

OLD = b"the old content"


def write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def test_a_file_is_there_with_its_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write(path, b"content")
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_until_the_end_the_old_content_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == OLD
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_exception_keeps_the_old_content(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_the_mode_is_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(mode)
    write(path, b"new")
    assert path.stat().st_mode & 0o777 == mode


def test_a_new_files_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_another_runtime_error_passes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="my own"), atomic_write(tmp_path / "file"):
        raise RuntimeError("my own")


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    for path in (tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        with pytest.raises(RunError, match="cannot write") as caught:
            write(path, b"")
        assert str(path) in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="folder"):
        write(tmp_path / "folder", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from thinlens.errors import RunError
from thinlens.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for size in (100_001, 150_000, 1_000_000, 10_000_000):
    try:
        with atomic_write(Path(sys.argv[1])) as file:
            for _ in range(10):
                file.write(bytes(size // 10 + 1))
    except RunError as error:
        print(error)
"""


def test_a_full_disk_keeps_the_old_file_and_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(0o640)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"cannot write {path}: ") for line in lines)
    assert path.read_bytes() == OLD
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("hides", [RuntimeError("in words of its own"), OSError("encoder error")])
def test_a_library_that_hides_why_a_write_failed_does_not_hide_the_path(
    tmp_path: Path, hides: Exception
) -> None:
    """The reason is that of the write, or of one more, whatever the library made of it."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "file"
    path.write_bytes(OLD)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        sentence = f"cannot write {path}: File too large"
        with pytest.raises(RunError, match=sentence), atomic_write(path) as file:
            try:
                if isinstance(hides, OSError):  # by the descriptor, as Pillow does
                    os.write(file.fileno(), bytes(1000))
                    os.write(file.fileno(), bytes(1000))
                file.write(bytes(100_000))
            except OSError:
                raise hides from None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_only_our_own_leftovers_are_swept(tmp_path: Path) -> None:
    ours = temporary_prefix("a.json") + "abcd_123"
    elsewhere, earlier = (
        ".a.json.thinlens-xyz-abcd_123".replace("xyz", "0f0"),
        ".a.thinlens-abcd_123",
    )
    claim = ".0123456789abcdef.thinlens-claim"
    others = ["a.json", ".a.json", ".a.json.thinlens-short", ".a.json.swp", "b.thinlens-abcd_123"]
    for name in (ours, elsewhere, earlier, claim, *others):
        (tmp_path / name).write_text("")
    folder = temporary_prefix("folder") + "abcdefgh"
    (tmp_path / folder).mkdir()
    link = temporary_prefix("link") + "abcdefgh"
    (tmp_path / link).symlink_to("a.json")
    kept = {*others, folder, link}
    assert sweep_leftovers(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {elsewhere, earlier, *kept}
    for name in (elsewhere, earlier):  # a lock of another machine may not reach here
        os.utime(tmp_path / name, (0, time.time() - OTHER_HOST_SECONDS - 1))
    assert sweep_leftovers(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert sweep_leftovers(tmp_path / "missing") == 0


def test_a_file_that_is_being_written_is_not_swept(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as file:
        file.write(b"content")
        os.utime(next(tmp_path.iterdir()), (0, 0))
        assert sweep_leftovers(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_lines_of_several_writers_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    mine, other = JsonLines(path), JsonLines(path)
    assert mine.read() == other.read_added() == []
    mine.append({"a": 1})
    with path.open("ab") as file:
        file.write(b'{"half": ')  # its writer was killed
    assert other.read_added() == [{"a": 1}]
    other.append({"b": 2})
    assert mine.read_added() == [{"a": 1}, {"b": 2}]
    assert mine.read_added() == []
    mine.rewrite([{"c": 3}])
    assert other.read_added() == [{"c": 3}]
    path.write_bytes(b"[" * 100_000 + b"\n" + b"\xff\n3\n")
    assert other.read() == []


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"key": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"key": [1, 2.5, None]}
    with pytest.raises(TypeError):
        write_json(path, {"key": object()})
    assert json.loads(path.read_text()) == {"key": [1, 2.5, None]}
    assert list(tmp_path.iterdir()) == [path]
