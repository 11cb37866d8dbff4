"""Code blocks of the guides in docs/, which tests execute."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType


def code_blocks(guide: Path) -> dict[str, str]:
    """Return a guide's blocks by the text after the three backticks."""
    blocks = re.findall(r"^```(\S[^\n]*)\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)
    assert len({info for info, _ in blocks}) == len(blocks)
    return dict(blocks)


def imported(path: Path, source: str, name: str) -> ModuleType:
    """Write a module outside the package and import it under a name."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[module.__name__]
    return module
