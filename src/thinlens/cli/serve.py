"""The command `serve`: a page that restores images which are dropped on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError

log = logging.getLogger(__name__)

PACKAGES = ("starlette", "uvicorn", "python_multipart")
"""Modules of the extra `serve`."""


@dataclass(frozen=True, kw_only=True)
class Serve(Verb):
    """Serve a page on which images are dropped, restored and compared, until Ctrl-C or SIGTERM.

    Example: thinlens serve --model thin

    Needs the extra serve. The shipped networks are offered, and those of --model. Images are in a
    temporary folder that is removed. The requests are described at /openapi.json.
    """

    model: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="CHECKPOINT|BUNDLE...", help_behavior_hint="")
    ] = ()
    """Folders or files of weights that are offered beside the shipped networks."""
    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    """Only this machine reaches the default; 0.0.0.0 is every address: there is no password."""
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 8000
    """0: any that is free; the address is printed."""
    engine: Annotated[str, tyro.conf.arg(metavar="auto|torch|native")] = "auto"
    """What runs the networks: torch, the native CPU engine, or auto, the faster."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Longest side, in input pixels, of the tiles that images are cut into (default: as memory
    allows)."""
    max_pixels: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Images with more are refused before they are decoded (default: as for restore)."""
    max_bytes: Annotated[str, tyro.conf.arg(metavar="256M")] = "256M"
    """Larger files are refused."""
    max_jobs: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Images that may wait or be restored at once; others are refused until one is finished."""
    max_seconds: Annotated[float, tyro.conf.arg(metavar="S")] = 600.0
    """For the upload of an image, and for its restoration, which ends then."""

    def run(self) -> Answer:
        check_extra()
        from thinlens.images.opening import MAX_PIXELS
        from thinlens.serve.limits import ServerLimits, file_bytes
        from thinlens.serve.networks import NetworkTable
        from thinlens.serve.server import listen, run_server

        pixels = MAX_PIXELS if self.max_pixels is None else self.max_pixels
        limits = ServerLimits(pixels, file_bytes(self.max_bytes), self.max_jobs, self.max_seconds)
        address = listen(self.host, self.port)
        with address.listening:
            networks = NetworkTable(self.model, self.engine, self.tile)

            def ready(_: Callable[[], None]) -> None:
                log.info("%s (Ctrl-C ends it)", address.url)
                if not address.is_loopback:
                    log.warning(
                        "everyone who reaches %s can use this server: there is no password and no "
                        "encryption",
                        address.url,
                    )

            counts = run_server(address, networks, limits, ready)
        text = ", ".join(f"{count} {state}" for state, count in counts.items())
        return Answer({"host": address.host, "port": address.port, **counts}, (text,))


def check_extra() -> None:
    """Raise `UsageError` where a package of the extra is missing."""
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"serve needs {', '.join(missing)}: wanted the extra, pip install 'thinlens[serve]'"
        )
