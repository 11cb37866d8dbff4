"""Hold `thinlens serve` under load: many clients at once, beside one client after the other.

    python benchmarks/serve_load.py --seconds 120 --clients 20 --size 320x240

Starts a server of its own. In turns, `--rounds` times, one client sends images alone, for half as
long in all, and all clients at once, who try again after the answer's Retry-After where the queue
is full. Prints finished images a second, refusals, other answers, and the server's memory.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

BOUNDARY = "thinlens-load"
ANSWER_SECONDS = 600.0

WARM_SECONDS = 20.0
"""Of one client before anything is measured: kernels are selected meanwhile."""


@dataclass
class Load:
    """What clients were answered."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, other: Load) -> None:
        """Add what clients were answered at another time."""
        self.answers += other.answers
        self.seconds += other.seconds

    @property
    def rate(self) -> float:
        """Finished images a second."""
        return self.answers["200"] / self.seconds


def body(network: str, size: tuple[int, int]) -> bytes:
    """Return a form with a smooth image of `size` (width, height)."""
    width, height = size
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="network"\r\n\r\n{network}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    )
    return head.encode() + buffer.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(port: int, form: bytes) -> tuple[str, float]:
    """Send an image; return the answer's status, or why there was none, and Retry-After."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    try:
        connection.request("POST", "/restore", form, {"Content-Type": kind})
        answer = connection.getresponse()
        content = answer.read()
    except OSError as error:
        return type(error).__name__, 0.0
    finally:
        connection.close()
    if answer.status == 200:
        return "200" if content.startswith(b"\x89PNG") else "200 without an image", 0.0
    sentence = str(json.loads(content)["error"])
    if sentence.startswith("the queue is full"):
        return "full", float(answer.headers["Retry-After"])
    return f"{answer.status} {sentence}", 0.0


def load(port: int, form: bytes, clients: int, seconds: float) -> Load:
    """Let clients send images for some seconds, each the next one after its answer."""
    result, begin, lock = Load(), time.monotonic(), threading.Lock()

    def client(_: int) -> None:
        while time.monotonic() - begin < seconds:
            answer, pause = send(port, form)
            with lock:
                result.answers[answer] += 1
                result.seconds = time.monotonic() - begin
            time.sleep(min(pause, max(0.0, begin + seconds - time.monotonic())))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return result


def resident_mebibytes(process: int) -> float:
    """Return the memory of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(match[1]) / 1024 if match else 0.0


def watched(process: int, memory: list[float], ends: threading.Event) -> None:
    """Note the memory of a process every second until the event."""
    while not ends.wait(1.0):
        memory.append(resident_mebibytes(process))


def main() -> None:
    """Start the server, load it and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--network", default="realesr-animevideov3-thin")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    form = body(arguments.network, (width, height))
    words = [sys.executable, "-m", "thinlens", "serve", "--port", "0", "--json"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        if server.stderr is None or server.stdout is None:
            raise RuntimeError("the server has no pipes")
        port = int(server.stderr.readline().split(" ")[0].rpartition(":")[2])
        threading.Thread(target=server.stderr.read, daemon=True).start()
        part = arguments.seconds / arguments.rounds
        alone, together = Load(), Load()
        load(port, form, 1, WARM_SECONDS)  # reads, times and tunes the network
        memory, ends = list[float](), threading.Event()
        watcher = threading.Thread(target=watched, args=(server.pid, memory, ends))
        watcher.start()
        for _ in range(arguments.rounds):
            alone.add(load(port, form, 1, part / 4))
            together.add(load(port, form, arguments.clients, part))
            alone.add(load(port, form, 1, part / 4))
        ends.set()
        watcher.join()
        server.terminate()
        counts = json.loads(server.stdout.read())
    third = len(memory) // 3
    middle, last = np.mean(memory[third : 2 * third]), np.mean(memory[2 * third :])
    print(
        f"one client: {alone.rate:.2f} images a second in {alone.seconds:.0f} s\n"
        f"{arguments.clients} clients: {together.rate:.2f} a second in {together.seconds:.0f} s, "
        f"{together.rate / alone.rate:.2f} times as many; answers: {dict(together.answers)}\n"
        f"memory in MiB: {memory[0]:.0f} at first, {middle:.1f} on average in the middle third, "
        f"{last:.1f} in the last, {max(memory):.0f} at most\n"
        f"server: {counts}, status {server.returncode}"
    )


if __name__ == "__main__":
    main()
