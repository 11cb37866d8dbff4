"""How is a thin module called like the module it was, only faster?"""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import RLock

import torch
from torch import Tensor, nn

from thinlens.engine.choice import Choose
from thinlens.engine.graph import Size
from thinlens.engine.native import fastest, native
from thinlens.engine.operator import number, run
from thinlens.engine.plan import Means, Plan
from thinlens.engine.tuner import tuner
from thinlens.errors import UsageError
from thinlens.models.tile_position import Place, current_places
from thinlens.sparsity.pattern import Pruned

MOST_PLANS = 8
"""Sizes whose plans are kept; the one that was used longest ago goes first."""

MEMORY_SHARE = 0.5
"""Of the machine's memory, for the activations of a plan."""

HELD = 1.25
"""Memory that plans hold together, in parts of the largest one's."""

MOST_THREADS = 1024

SMALL = 1 << 15
"""Pixels of an image up to which images of a batch run at once, each on one thread: threads that
share so small an image compute a good part of its rows twice, and wait for each other."""


def compile(
    model: nn.Module | Pruned, precision: str = "fp32", threads: int | None = None
) -> Callable[[Tensor], Tensor]:
    """Return a callable that maps images `[B, C, H, W]` as `model` does, in evaluation mode.

    It holds a copy of the weights as they are now. Results agree with torch to about 1e-6 of
    their size; with `precision="bf16"`, which stores weights and all activations but the output in
    bfloat16 and needs a CPU with AVX512_BF16, to about 1e-2. Sizes are planned on first use.
    torch.compile and torch.export take it as one operation, without a gradient, that lives as long
    as the callable. Without the C++ core torch runs the module, after one warning. A `UsageError`
    says what the engine does not know, wrong input included.
    """
    module = model.module if isinstance(model, Pruned) else model
    if threads is not None:
        _check_threads(threads)
    kernels = fastest(precision)
    frozen = copy.deepcopy(module).eval().requires_grad_(False)
    if native() is None:
        return torch.inference_mode()(frozen)
    return Compiled(frozen, threads or torch.get_num_threads(), kernels)


class Compiled:
    """A module, its plans by input size, and the threads that run them. Safe to call from
    several threads: calls of one size take turns."""

    def __init__(
        self,
        module: nn.Module,
        threads: int,
        kernels: str | None = None,
        choose: Choose | None = None,
    ) -> None:
        core = native()
        if core is None:
            raise UsageError("the native engine was not built")
        _check_threads(threads)
        self.module = module
        self._number = number(self)
        self._kernels = name = kernels or fastest()
        chosen = core.kernels(name)
        limit = int(MEMORY_SHARE * _memory())
        self._means = Means(core, chosen, choose or tuner(name), limit, threads)
        self.pool = core.ThreadPool(threads)
        self._alone: list[Compiled] = []
        """The same network for one thread, once for each thread; made when batches of small images
        come."""
        self._plans: OrderedDict[Size, Plan] = OrderedDict()
        self._holding: list[Plan] = []
        """The plans that still hold their activations' memory, the one that ran last at the end."""
        self._lock = RLock()

    def __call__(self, image: Tensor) -> Tensor:
        result: Tensor = run(image, self._number)
        return result

    def execute(self, image: Tensor) -> Tensor:
        """Run the plan for images `[B, C, H, W]`, each by itself; called by torch."""
        _check(image)
        size, threads = Size(*image.shape[1:]), self._means.threads
        with self._lock:  # the pool runs one program at a time anyway
            if min(threads, len(image)) > 1 and size.height * size.width <= SMALL:
                return self._side_by_side(size, image)
            plan = self.plan(size)
            return self._run(plan, image, torch.empty(len(image), *plan.shape), current_places())

    def _side_by_side(self, size: Size, image: Tensor) -> Tensor:
        """Share a batch out among single threads."""
        means, threads = self._means, self._means.threads
        if not self._alone:
            self._alone = [
                Compiled(self.module, 1, self._kernels, means.choose) for _ in range(threads)
            ]
        lanes = self._alone[: len(image)]
        plans = [lane.plan(size) for lane in lanes]  # kernels are timed while nothing else runs
        out = torch.empty(len(image), *plans[0].shape)
        left, places = iter(range(len(image))), current_places()

        def work(lane: Compiled, plan: Plan) -> None:
            for index in left:  # the next image is taken by who is free first
                one = slice(index, index + 1)
                lane._run(plan, image[one], out[one], places[one])

        with ThreadPoolExecutor(len(lanes)) as pool:  # kept ones would not survive a fork
            list(pool.map(work, lanes, plans))
        return out

    def _run(self, plan: Plan, image: Tensor, out: Tensor, places: Sequence[Place]) -> Tensor:
        self._hold(plan)
        source = image.detach().contiguous().numpy()
        if not places or not plan.placeable:
            plan.program.run(self.pool, source, out.numpy())
            return out
        for index, place in enumerate(places):
            one = slice(index, index + 1)
            plan.program.run(self.pool, source[one], out.numpy()[one], plan.places(place))
        return out

    def _hold(self, plan: Plan) -> None:
        """Let plans that ran before give back their memory: it is that of the largest and a bit
        more, however many are kept. A small tile does not cost the whole image its pages."""
        if self._holding and self._holding[-1] is plan:
            return
        others = [other for other in self._holding if other is not plan]
        most = HELD * max(other.bytes for other in [*others, plan])
        while others and sum(other.bytes for other in [*others, plan]) > most:
            others.pop(0).program.release()
        self._holding = [*others, plan]

    def plan(self, size: Size) -> Plan:
        """The plan for one image of `size`, made now or remembered."""
        with self._lock:
            if size not in self._plans:
                try:
                    plan = Plan(self._means, self.module, size)
                except UsageError:
                    raise
                except Exception as error:  # a module's own code fails in ways of its own
                    reason = str(error).partition("\n")[0]
                    where = f"{size.width}x{size.height} with {size.channels} channels"
                    raise UsageError(f"no plan for an input of {where}: {reason}") from error
                self._plans[size] = plan
                while self._too_many():
                    _, gone = self._plans.popitem(last=False)
                    self._holding = [held for held in self._holding if held is not gone]
            self._plans.move_to_end(size)
            return self._plans[size]

    def _too_many(self) -> bool:
        """Whether a plan must go; the last one stays."""
        return len(self._plans) > MOST_PLANS


def _check_threads(threads: int) -> None:
    if not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"threads = {threads}: wanted 1 to {MOST_THREADS}")


def _check(image: Tensor) -> None:
    if image.dim() != 4 or not image.numel():
        raise UsageError(f"wanted images [B, C, H, W], none of them 0, not {tuple(image.shape)}")
    if image.dtype != torch.float32 or image.device.type != "cpu":
        raise UsageError(f"wanted float32 on the CPU, not {image.dtype} on {image.device}")


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
