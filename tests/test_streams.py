"""Commands run whatever the caller closed, and whoever the user is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thinlens.engine.timings import cache_folder


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_end_no_command(closed: str, tmp_path: Path) -> None:
    """The file that a command writes must not get the descriptor of a closed stream either."""
    code = (
        "import sys\n"
        "from thinlens.cli.streams import open_closed_streams\n"
        "open_closed_streams()\n"
        "print('out'); print('err', file=sys.stderr); sys.stdout.flush()\n"
        "file = open(sys.argv[1], 'w')\n"
        "assert file.fileno() > 2 and not sys.stderr.isatty()\n"
        "file.write('content')\n"
    )
    target = tmp_path / "file"
    command = f'{sys.executable} -c "$CODE" {target} {closed}'
    subprocess.run(["sh", "-c", command], check=True, env={**os.environ, "CODE": code})
    assert target.read_text() == "content"


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(no_home))
    assert cache_folder().name == f"thinlens-{os.getuid()}"
