"""Compiled networks: a callable that runs a module by the native engine, with a plan per size.

torch.compile and torch.export see it as one operation, `thinlens::run`.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thinlens.engine.cores import ThreadPools
from thinlens.engine.description import Description
from thinlens.engine.graph import Size
from thinlens.engine.graphs import Graphs
from thinlens.engine.image_check import check_image
from thinlens.engine.kernel_policy import KernelPolicy, plan_context
from thinlens.engine.native import fastest, native
from thinlens.engine.plan import GIB, InputRanges, Plan
from thinlens.engine.tuner import KernelSelector
from thinlens.errors import UsageError
from thinlens.models.tile_position import TilePosition, current_tile_positions

if TYPE_CHECKING:
    from thinlens.engine import _native

MAX_PLANS = 8
"""Sizes whose plans are kept; the least recently used one is dropped first."""

KEPT_ARENAS = 1.25
"""Bytes of the arenas that are kept, relative to the largest one's."""

MAX_THREADS = 1024

ONE_THREAD_PIXELS = 1 << 15
"""Pixels of an image up to which the images of a batch run at once, one thread each. Threads that
share so small an image compute a good part of its rows twice, and wait for each other."""


class Compiled(Description):
    """A module, its plans by input size, and the threads that run them.

    Its attributes `scale`, `input_channels`, `output_channels` and `size_requirements` are named as
    those of spandrel's descriptors. Safe to call from several threads: calls run one after the
    other.
    """

    def __init__(
        self,
        module: nn.Module,
        threads: int,
        kernels: str | None = None,
        kernel_selector: KernelSelector | None = None,
        least_work: float = 0.0,
        input_ranges: InputRanges | None = None,
    ) -> None:
        core = native()
        if core is None:
            raise UsageError("the native engine was not built")
        check_threads(threads)
        self.module = module
        self._graphs = Graphs(module)
        self._handle = _register(self)
        self._kernels = kernels or fastest()
        self._context = plan_context(
            core, self._kernels, threads, kernel_selector, least_work, input_ranges
        )
        self._pools = ThreadPools(core, threads)
        self._single_threaded: list[Compiled] = []
        """The same network on one thread, once for each thread; built for the first batch of small
        images."""
        self._plans: OrderedDict[tuple[Size, bool], Plan] = OrderedDict()
        """By input size, and whether it is a tile's."""
        self.can_roll = True
        """Whether large images run by bands of rows, as far as plans have shown."""
        self._band_run: object = None
        """Of the image whose bands are computed: another image ends it."""
        self._ranges_from = "the checkpoint"
        """Where the ranges were measured that int16 scales by."""
        self._dropped_saturated = 0
        """Saturated inputs of plans that are no longer kept."""
        self._with_arena: list[Plan] = []
        """The plans whose arenas are in memory, the most recently run one at the end."""
        self._lock = RLock()

    def __call__(self, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            check_image(image)
        if _runs_at_once(image):
            return self.execute(image)
        result: Tensor = run(image, self._handle)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.module, memo), *self._settings)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the module and the settings: plans are made anew."""
        threads, kernels, _, *others = self._settings
        return Compiled, (self.module, threads, kernels, None, *others)

    @property
    def _settings(self) -> tuple[int, str, KernelSelector | None, float, InputRanges | None]:
        context = self._context
        selector = None if self.policy else context.kernel_selector
        return context.threads, self._kernels, selector, context.least_work, context.input_ranges

    @property
    def pool(self) -> _native.ThreadPool:
        """The threads that have a core of their own beside other work of this process."""
        return self._pools.pool()

    @property
    def policy(self) -> KernelPolicy | None:
        """What selects kernels; None where another selector does."""
        selector = self._context.kernel_selector
        return selector if isinstance(selector, KernelPolicy) else None

    def with_selector(self, selector: KernelSelector) -> Compiled:
        """Return the same network with kernels by another selector."""
        threads, kernels, _, least_work, ranges = self._settings
        return Compiled(self.module, threads, kernels, selector, least_work, ranges)

    @property
    def kernels(self) -> str:
        """The set of instructions."""
        return self._kernels

    @property
    def least_work(self) -> float:
        """Multiply-adds for each copied value that a segment between parts of torch has."""
        return self._context.least_work

    @property
    def precision(self) -> str:
        """The name of the precision that images run in now."""
        return self._context.precision

    @property
    def saturated(self) -> int:
        """Inputs of int16 convolutions that were beyond their range, in all runs."""
        with self._lock:
            plans = sum(plan.program.saturated() for plan in self._plans.values())
            ones = sum(engine.saturated for engine in self._single_threaded)
        return self._dropped_saturated + plans + ones

    @property
    def is_rounded(self) -> bool:
        """Whether results may differ from float32's by more than the order of sums."""
        return self.precision != "fp32"

    def in_float32(self) -> Compiled:
        """Return the same network in float32, with the same threads."""
        return Compiled(self.module, self._context.threads, least_work=self.least_work)

    def precision_report(self) -> dict[str, Any]:
        """Return the precision, and int16's source of ranges and number of saturated inputs."""
        int16 = {"ranges": self._ranges_from, "saturated": self.saturated}
        return {"precision": self.precision, **(int16 if self.precision == "int16" else {})}

    def _use(self, kernels: str, input_ranges: InputRanges | None) -> None:
        """Run in another precision from now on."""
        core, threads = self._context.core, self._context.threads
        self._kernels = kernels
        self._context = plan_context(core, kernels, threads, None, self.least_work, input_ranges)
        self._plans.clear()
        self._with_arena.clear()
        self._single_threaded.clear()

    @property
    def is_mixed(self) -> bool:
        """Whether torch runs a part of the network, at some size that was planned."""
        return any(plan.is_mixed for plan in self._plans.values())

    @property
    def description(self) -> str:
        """The kernels, the number of threads, and int16 where it is."""
        int16 = " int16" if self.precision == "int16" else ""
        return f"{self._kernels} {self._context.threads} threads{int16}"

    def eval(self) -> Compiled:
        """Return itself: it runs in evaluation mode."""
        return self.train(mode=False)

    def train(self, mode: bool = True) -> Compiled:
        """Return itself for `mode=False`; training is a `UsageError`."""
        if mode:
            raise UsageError(
                "a compiled network cannot be trained: train the module, then compile it anew"
            )
        return self

    def to(self, *args: Any, **kwargs: Any) -> Compiled:
        """Return itself for float32 on the CPU; anything else is a `UsageError`."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if (device is not None and device.type != "cpu") or dtype not in (None, torch.float32):
            wanted = " ".join(str(x) for x in (dtype, device) if x is not None)
            raise UsageError(f"a compiled network runs in float32 on the CPU, not in {wanted}")
        return self

    def execute(self, image: Tensor) -> Tensor:
        """Run the plan on images `[B, C, H, W]`, one by one; called by torch."""
        check_image(image)
        size, threads = Size(*image.shape[1:]), self._context.threads
        with self._lock, self._timed():  # the pool runs one program at a time anyway
            plan = self.plan(size, is_tile=bool(current_tile_positions()))
            small = size.height * size.width <= ONE_THREAD_PIXELS
            if min(threads, len(image)) > 1 and small and not plan.is_mixed:
                return self._one_thread_each(size, image)
            output_bytes = 4 * math.prod(plan.shape)
            if output_bytes > self._context.max_bytes:
                raise UsageError(f"the result of an image would take {output_bytes / GIB:.1f} GiB")
            output = torch.empty(len(image), *plan.shape)
            return self._run(plan, image, output, current_tile_positions())

    def _one_thread_each(self, size: Size, image: Tensor) -> Tensor:
        """Distribute a batch over single threads."""
        threads = self._context.threads
        if not self._single_threaded:
            self._single_threaded = [
                Compiled(self.module, 1, *self._settings[1:]) for _ in range(threads)
            ]
        engines = self._single_threaded[: len(image)]
        queue, positions = iter(range(len(image))), current_tile_positions()
        is_tile = bool(positions)
        plans = [engine.plan(size, is_tile=is_tile) for engine in engines]  # while nothing runs
        output = torch.empty(len(image), *plans[0].shape)

        def work(engine: Compiled, plan: Plan) -> None:
            for index in queue:  # an idle thread takes the next image
                one = slice(index, index + 1)
                engine._run(plan, image[one], output[one], positions[one])

        with ThreadPoolExecutor(len(engines)) as pool:  # a kept one would not outlast a fork
            list(pool.map(work, engines, plans))
        return output

    def _run(
        self, plan: Plan, image: Tensor, output: Tensor, positions: Sequence[TilePosition]
    ) -> Tensor:
        self._release_arenas(plan)
        source = image.detach()
        if not positions or not plan.depends_on_position:
            plan.run(self.pool, source, output, [])
            return output
        for index, position in enumerate(positions):
            one = slice(index, index + 1)
            placements = plan.placements(position)
            plan.run(self.pool, source[one], output[one], placements)
        return output

    def bands(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the result for a whole image `[1, C, H, W]` from top to bottom, by bands of rows.

        Memory is that of a band where the plan is banded; else the whole result is one band.
        Raises `UsageError` where another image runs before the last band.
        """
        check_image(image)
        source, run = image.detach(), object()
        with self._lock, self._timed():
            plan = self.plan(Size(*image.shape[1:]))
            if plan.is_banded and len(image) == 1:
                self._release_arenas(plan)
                self._band_run = run
        if self._band_run is not run:
            yield self.execute(image)
            return
        for blocks, rows in plan.bands():
            with self._lock, self._running():
                if self._band_run is not run:
                    raise UsageError(
                        "another image ran before the last band of this one: wanted all bands first"
                    )
                band = plan.run_band(self.pool, source, blocks, rows)
            if len(rows):
                yield band

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Let the policy know how long an image takes, which it begins."""
        policy = self.policy
        if policy and policy.begins_to_measure():
            self.plan_anew()
        with self._running():
            yield

    def _running(self) -> AbstractContextManager[None]:
        """Add the seconds of a block to the policy's, if there is one."""
        return self.policy.running() if self.policy else nullcontext()

    def plan_anew(self) -> None:
        """Drop all plans: other kernels may have been measured."""
        with self._lock:
            self._dropped_saturated = self.saturated
            self._plans.clear()
            self._with_arena.clear()
            self._single_threaded.clear()

    def _release_arenas(self, plan: Plan) -> None:
        """Release the arenas of the least recently run plans beyond `KEPT_ARENAS` times the
        largest one, before `plan` runs."""
        self._band_run = None
        if self._with_arena and self._with_arena[-1] is plan:
            return
        others = [other for other in self._with_arena if other is not plan]
        most = KEPT_ARENAS * max(other.bytes for other in [*others, plan])
        while others and sum(other.bytes for other in [*others, plan]) > most:
            others.pop(0).program.release()
        self._with_arena = [*others, plan]

    def plan(self, size: Size, *, is_tile: bool = False) -> Plan:
        """Return the plan for one image of `size`, or a tile of a larger image, and keep it."""
        key = (size, is_tile)
        with self._lock:
            if key not in self._plans:
                self._plans[key] = self._new_plan(size, is_tile=is_tile)
                while len(self._plans) > MAX_PLANS:
                    _, dropped = self._plans.popitem(last=False)
                    self._dropped_saturated += dropped.program.saturated()
                    self._with_arena = [plan for plan in self._with_arena if plan is not dropped]
            self._plans.move_to_end(key)
            return self._plans[key]

    def _new_plan(self, size: Size, *, is_tile: bool) -> Plan:
        try:
            plan = Plan(self._context, self._graphs, size, is_tile=is_tile)
            self.can_roll = is_tile or plan.can_roll
            return plan
        except UsageError:
            raise
        except Exception as error:  # whatever a module's code raises
            reason = str(error).partition("\n")[0]
            where = f"{size.width}x{size.height} with {size.channels} channels"
            raise UsageError(f"no plan for an input of {where}: {reason}") from error


_handles = count()
_engines: WeakValueDictionary[int, Compiled] = WeakValueDictionary()
"""Operations of torch take tensors and numbers, so a compiled network has a number: its handle."""


def _register(engine: Compiled) -> int:
    """Return a new handle, by which `run` finds an engine in this process."""
    handle = next(_handles)
    _engines[handle] = engine
    return handle


@torch.library.custom_op("thinlens::run", mutates_args=())
def run(image: Tensor, engine: int) -> Tensor:
    """Run the compiled network with this handle. It has no gradient."""
    return _engine(engine).execute(image)


@run.register_fake
def _run_fake(image: Tensor, engine: int) -> Tensor:
    """Return a tensor of the result's size, from the module on tensors without values."""
    module = _engine(engine).module
    state = [*module.named_parameters(), *module.named_buffers()]
    stand_ins = {name: image.new_empty(value.shape, dtype=value.dtype) for name, value in state}
    result: Tensor = functional_call(module, stand_ins, (image,))
    return image.new_empty(result.shape)


def _runs_at_once(image: Tensor) -> bool:
    """Whether nothing of torch's would see the operation: calling it imports torch's compiler."""
    if torch.compiler.is_compiling():  # what follows cannot be compiled
        return False
    is_plain = type(image) is Tensor and not (image.requires_grad and torch.is_grad_enabled())
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    is_functional = torch._C._functorch.peek_interpreter_stack() is not None
    return is_plain and not (modes or is_functional)


def _engine(handle: int) -> Compiled:
    engine = _engines.get(handle)
    if engine is None:
        raise UsageError(
            f"compiled network {handle} no longer exists, or is of another process: compile anew"
        )
    return engine


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no pool has."""
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads = {threads}: wanted 1 to {MAX_THREADS}")
