"""Restoration by workers on a Ray cluster: chunks of images, again where a worker is killed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thinlens.errors import RunError, UsageError
from thinlens.progress import Progress, no_progress
from thinlens.restoration.folder_run import FolderRun, input_record
from thinlens.restoration.job import Job
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.photographs import PhotographRestorer
from thinlens.restoration.results import Results, results_at
from thinlens.restoration.sources import Sources

LOCAL = "local"
"""The address that stands for a cluster of this machine alone, which ends with the command."""

MOST_IMAGES = 64
"""Of a chunk: with it a worker states what is done, and a killed one's is done again."""

CHUNKS_PER_WORKER = 16
"""At least, of a small collection, so that workers end together."""

MOST_DEATHS = 2
"""Workers that an image may take with it before it is listed as failed."""

WAIT_SECONDS = 0.5
"""Between two looks at signals while workers restore."""


@dataclass(frozen=True)
class RayCluster:
    """A cluster that restores, and what each of its workers runs."""

    address: str
    """`local`, `auto` (the one of this machine), or the address of its head."""
    workers: int | None
    """None: one for each machine, which then has all of its cores."""
    make: Callable[[], Network | Restorer]
    """Makes what runs the network, in a worker; it can be pickled."""
    channels: int

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers}: wanted at least 1")


@dataclass
class ChunkResult:
    """What a worker did of a chunk."""

    done: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)

    def add(self, other: ChunkResult) -> None:
        """Count another chunk too."""
        self.done += other.done
        self.skipped += other.skipped
        self.failures |= other.failures
        self.clipped |= other.clipped

    @property
    def images(self) -> int:
        """How many images it is about."""
        return self.done + self.skipped + len(self.failures)


@dataclass(frozen=True)
class _Chunk:
    outputs: Mapping[str, str]
    """Names of results, by names of inputs."""
    deaths: int = 0
    """Workers that were killed while they restored it."""

    def after_death(self) -> list[_Chunk]:
        """Return what is to be done again: one image each, so that the next death shows which."""
        return [_Chunk({name: x}, self.deaths + 1) for name, x in self.outputs.items()]


class RestoreWorker:
    """Restores chunks with one network, in a process of the cluster; its manifest is its own."""

    def __init__(
        self, cluster: RayCluster, out: Path, options: RestoreOptions, manifest: str
    ) -> None:
        self._arguments = cluster, out, options, manifest
        self._job: Job | None = None

    def restore(self, sources: Sources, outputs: Mapping[str, str]) -> ChunkResult:
        """Restore a chunk; all of its lines are stored then."""
        job = self._started()
        run = FolderRun(job, self._restorer, sources, self._results, outputs, no_progress)
        with closing(sources):
            run.restore_all(lambda: None)
        self._results.flush()
        return ChunkResult(run.done, run.skipped, run.failures, run.clipped)

    def close(self) -> None:
        """End the use of the results."""
        if self._job is not None:
            self._results.__exit__()

    def _started(self) -> Job:
        """Make the network at the first chunk, whose errors the command then states."""
        if self._job is None:
            cluster, out, options, manifest = self._arguments
            self._restorer = options.restorer(cluster.make(), cluster.channels)
            self._results = results_at(out, manifest, is_worker=True).__enter__()
            self._job = Job(PhotographRestorer(self._restorer, cluster.channels, options))
        return self._job


@dataclass
class RayRun:
    """The images of a collection, restored by the workers of a cluster.

    A worker that is killed is replaced and its chunk restored again, less what its manifest holds.
    An image that takes several workers with it is listed as failed.
    """

    cluster: RayCluster
    sources: Sources
    results: Results
    outputs: Mapping[str, str]
    """Names of the results of all inputs that are restored."""
    out: Path
    options: RestoreOptions
    progress: Progress

    def restore_all(self, check: Callable[[], None]) -> ChunkResult:
        """Restore all images; `check` is called twice a second.

        Raises `RunError` where a worker cannot write or the cluster cannot be reached.
        """
        names, total = list(self.outputs), ChunkResult()
        with _Pool(self.cluster, self.out, self.options, len(names)) as pool:
            chunks = range(0, len(names), pool.chunk_size)
            waiting = deque(self._chunk(names[at : at + pool.chunk_size]) for at in chunks)
            while waiting or pool.is_busy:
                while waiting and pool.has_idle_worker:
                    chunk = waiting.popleft()
                    pool.start(chunk, self.sources.select(chunk.outputs))
                for chunk, answer in pool.finished():
                    if answer is not None:
                        total.add(answer)
                    elif chunk.deaths < MOST_DEATHS or len(chunk.outputs) > 1:
                        waiting.extend(chunk.after_death())
                    else:
                        total.add(self._failed(chunk))
                self.progress(total.images, len(names), {})
                check()
        return total

    def _chunk(self, names: Sequence[str]) -> _Chunk:
        return _Chunk({name: self.outputs[name] for name in names})

    def _failed(self, chunk: _Chunk) -> ChunkResult:
        """List the image of a chunk as failed, in the manifest of this process."""
        ((name, output),) = chunk.outputs.items()
        reason = f"{chunk.deaths + 1} processes ended while they restored it"
        version = self.sources.version(name)
        record = input_record(name, None, output, ("",), self.options, version)
        self.results.record(replace(record, error=reason))
        return ChunkResult(failures={name: reason})


class _Pool:
    """The workers, each with at most one chunk; those that were killed are replaced."""

    def __init__(
        self, cluster: RayCluster, out: Path, options: RestoreOptions, images: int
    ) -> None:
        self._cluster, self._options = cluster, options
        self._out = out
        self._images = images
        self._idle: list[tuple[int, Any]] = []
        self._busy: dict[Any, tuple[int, Any, _Chunk]] = {}

    def __enter__(self) -> _Pool:
        ray = _ray()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        local = self._cluster.address == LOCAL
        count = self._cluster.workers
        try:
            self._has_started = not ray.is_initialized()
            if self._has_started:
                ray.init(
                    address=LOCAL if local else self._cluster.address,
                    include_dashboard=False if local else None,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            machines = max(1, len([node for node in ray.nodes() if node["Alive"]]))
            cores = int(ray.cluster_resources().get("CPU", 1))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise RunError(f"--ray {self._cluster.address}: no cluster: {reason}") from error
        count = min(count or machines, max(1, self._images))
        self._worker = ray.remote(RestoreWorker).options(num_cpus=max(1, cores // count))
        self._shared = ray.put(self._cluster)  # with its network, once for all
        self._idle = [(number, self._create(number)) for number in range(1, count + 1)]
        each = self._images // (count * CHUNKS_PER_WORKER)
        self.chunk_size = max(1, min(MOST_IMAGES, each))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        ray = _ray()
        workers = [worker for _, worker in self._idle]
        if kind is None:
            ray.get([worker.close.remote() for worker in workers])
        for worker in [*workers, *(worker for _, worker, _ in self._busy.values())]:
            ray.kill(worker)
        if self._has_started:
            ray.shutdown()

    @property
    def is_busy(self) -> bool:
        return bool(self._busy)

    @property
    def has_idle_worker(self) -> bool:
        return bool(self._idle)

    def start(self, chunk: _Chunk, sources: Sources) -> None:
        number, worker = self._idle.pop(0)
        future = worker.restore.remote(sources, dict(chunk.outputs))
        self._busy[future] = (number, worker, chunk)

    def finished(self) -> list[tuple[_Chunk, ChunkResult | None]]:
        """Return the chunks that ended meanwhile; None where their workers did."""
        ray = _ray()
        ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=WAIT_SECONDS)
        answers = list[tuple[_Chunk, ChunkResult | None]]()
        for future in ready:
            number, worker, chunk = self._busy.pop(future)
            try:
                answers.append((chunk, ray.get(future)))
                self._idle.append((number, worker))
            except ray.exceptions.RayActorError as error:
                if error.actor_init_failed:
                    reason = str(error).strip().splitlines()[-1].strip()
                    raise RunError(f"--ray: a worker cannot start: {reason}") from error
                answers.append((chunk, None))
                self._idle.append((number, self._create(number)))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
        return answers

    def _create(self, number: int) -> Any:
        manifest = f"manifest-worker-{number}.jsonl"
        return self._worker.remote(self._shared, self._out, self._options, manifest)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError("--ray needs another package: pip install 'thinlens[ray]'") from error
    return ray
