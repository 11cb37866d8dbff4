"""Shared by the tests of `serve`: a server in a thread, a network that waits, and requests."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from thinlens.images.pixels import to_float
from thinlens.images.rows import RowReader
from thinlens.serve.limits import ServerLimits
from thinlens.serve.networks import NetworkChoice, NetworkEntry, NetworkTable, RunningNetwork
from thinlens.serve.server import listen, run_server
from thinlens.tasks import make_task

STEP_ROWS = 8
BOUNDARY = "thinlens-boundary"
PATIENCE = 30.0


class SteppedRestorer:
    """Repeats every pixel, eight rows at a time, each when the gate is open: a `Restorer`."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate

    def identities(self) -> tuple[str, ...]:
        return ("stepped",)

    def manifest_fields(self) -> dict[str, Any]:
        return {}

    def bands(
        self,
        image: RowReader,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        _, height, _ = image.shape
        for top in range(0, height, STEP_ROWS):
            if top:
                self.gate.wait(PATIENCE)
                assert check is not None
                check()
            rows = image.rows(top, min(height, top + STEP_ROWS))
            values = to_float(rows) if rows.dtype == torch.uint8 else rows
            yield finish(values.repeat_interleave(2, 1).repeat_interleave(2, 2))


class SteppedTable(NetworkTable):
    """Offers `stepped`, whose bands come while the gate is open, and a bundle of that kind."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self._entries = {
            name: NetworkEntry(name, name == "bundled", "sr", 2, budget, 1000)
            for name, budget in (("stepped", "1/4"), ("bundled", None))
        }

    def running(self, choice: NetworkChoice) -> RunningNetwork:
        self.entry(choice.network)
        self.note_speed(choice.plain, 1e-4)
        return RunningNetwork(SteppedRestorer(self.gate), make_task("sr", scale=2))


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class RunningServer:
    port: int
    url: str

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return Answered(answer.status, dict(answer.getheaders()), content)

    def send(
        self,
        content: bytes | None,
        path: str = "/jobs",
        name: str = "photo.png",
        network: str = "stepped",
        headers: Mapping[str, str] | None = None,
        **fields: str,
    ) -> Answered:
        body = form(content, name, {"network": network, **fields})
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.ask(path, "POST", body, Content_Type=kind, **(headers or {}))

    def when(self, address: str, *states: str) -> Any:
        """Return the state of an image once it is one of `states`."""
        deadline = time.monotonic() + PATIENCE
        while (state := self.ask(address).json)["state"] not in states:
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        return state


def form(content: bytes | None, name: str, fields: Mapping[str, str]) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if content is not None:
        head = f'Content-Disposition: form-data; name="image"; filename="{name}"'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def running_server(
    networks: NetworkTable, limits: ServerLimits | None = None
) -> Iterator[RunningServer]:
    address = listen("127.0.0.1", 0)
    is_ready, ends = threading.Event(), list[Callable[[], None]]()

    def ready(end: Callable[[], None]) -> None:
        ends.append(end)
        is_ready.set()

    arguments = (address, networks, limits or ServerLimits(), ready)
    thread = threading.Thread(target=run_server, args=arguments)
    thread.start()
    try:
        assert is_ready.wait(PATIENCE)
        yield RunningServer(address.port, address.url)
    finally:
        ends[0]()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def png(height: int = 40, width: int = 32, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image
