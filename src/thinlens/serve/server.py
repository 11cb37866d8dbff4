"""The running server: its address, its temporary folder, and its end by Ctrl-C or SIGTERM."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from thinlens.errors import UsageError
from thinlens.file_locks import FolderLock, try_lock
from thinlens.serve.app import ServerApp
from thinlens.serve.image_queue import ImageQueue
from thinlens.serve.limits import ServerLimits
from thinlens.serve.networks import NetworkTable
from thinlens.signals import SIGNALS

FOLDER_PREFIX = "thinlens-serve-"

LAST_PORT = 65_535

CONNECTIONS_WAITING = 128
"""Connections that the system keeps until they are accepted."""

END_SECONDS = 5
"""For which answers that are being sent may be finished at the end."""

Ready = Callable[[Callable[[], None]], None]
"""Called with a function that ends the server."""

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class ServerAddress:
    """A socket that listens, and what it is called."""

    listening: socket.socket
    host: str
    port: int
    is_loopback: bool
    """Whether only this machine can reach it."""

    @property
    def url(self) -> str:
        """The address of the page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def listen(host: str, port: int) -> ServerAddress:
    """Listen at a port, 0 for any that is free; `UsageError` where that is not possible.

    >>> address = listen("127.0.0.1", 0)
    >>> address.is_loopback, address.port > 0
    (True, True)
    >>> address.listening.close()
    """
    if not 0 <= port <= LAST_PORT:
        raise UsageError(f"--port {port}: wanted 0 to {LAST_PORT}")
    try:
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host}: no address of this machine has this name") from error
    family, *_, place = resolved[0]
    try:
        listening = socket.create_server(
            (str(place[0]), port), family=family, backlog=CONNECTIONS_WAITING
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "another program uses it; wanted another --port (0: any that is free)"
        else:
            reason = error.strerror or str(error)
        raise UsageError(f"port {port} of {host}: {reason}") from error
    address = listening.getsockname()
    loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    return ServerAddress(listening, host, address[1], loopback)


@contextmanager
def temporary_folder() -> Generator[Path]:
    """Yield a folder of this process that is removed at the end, with those of killed servers."""
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        _remove_unlocked_folder(folder)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    try:
        with FolderLock(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_server(
    address: ServerAddress,
    networks: NetworkTable,
    limits: ServerLimits,
    ready: Ready | None = None,
) -> dict[str, int]:
    """Serve until Ctrl-C or SIGTERM; return the numbers of images by how they ended.

    `ready` is called once the server answers, with a function that ends it.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # answers name damaged forms
    with temporary_folder() as folder:
        queue = ImageQueue(networks, folder, limits)
        hosts = LOCAL_NAMES | {address.host} if address.is_loopback else None
        app = ServerApp(queue, networks, limits).asgi(hosts)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=END_SECONDS,
        )
        queue.start()
        try:
            _Server(config, queue, ready).run(sockets=[address.listening])
        finally:
            queue.close()
        return dict(queue.counts)


class _Server(uvicorn.Server):
    """Ends the queue before it waits for connections, which wait for the queue."""

    def __init__(self, config: uvicorn.Config, queue: ImageQueue, ready: Ready | None) -> None:
        super().__init__(config)
        self._queue, self._ready = queue, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready:
            self._ready(self._end)

    def _end(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._queue.cancel_all()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """End on signals, which is how a server ends: they are not raised again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _remove_unlocked_folder(folder: Path) -> None:
    """Remove the folder of a server that was killed; that of a running one is locked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if try_lock(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
