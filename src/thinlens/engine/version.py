"""The version of the package, and the line of `thinlens --version`; torch is not needed."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from thinlens.engine.native import build, fastest


def package_version() -> str:
    """Return the version of the installed package.

    >>> package_version()[0].isdigit()
    True
    """
    try:
        return version("thinlens")
    except PackageNotFoundError:
        return "0+source"  # run from a source tree that was never installed


def version_line() -> str:
    """Return the line that `thinlens --version` prints.

    >>> version_line().startswith("thinlens ")
    True
    """
    return (
        f"thinlens {package_version()}, build {build()}, kernels {fastest()}, "
        f"torch {version('torch')}, Python {platform.python_version()}"
    )
