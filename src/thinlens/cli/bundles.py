"""How do words of the command line become a bundle that is ready to restore?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thinlens.adaptive.adapt import means_of
from thinlens.adaptive.bundle import Bundle, load_bundle
from thinlens.adaptive.candidates import EngineFactory
from thinlens.adaptive.image_budget import ImageBudget
from thinlens.adaptive.router import RouterContext, TileRouter, RoutingOptions
from thinlens.api import runner
from thinlens.errors import UsageError


@dataclass(frozen=True)
class Ready:
    """A bundle, what its tiles are restored with, and their router."""

    bundle: Bundle
    means: RouterContext
    router: TileRouter
    run: EngineFactory


def ready(path: str, engine: str, wish: RoutingOptions, blend: int = 0) -> Ready:
    """Load a bundle and make its router."""
    timed_by = engine if wish.price == "ms" else None
    bundle, run = load_bundle(Path(path)), partial(runner, engine=engine)
    means = means_of(bundle, run, timed_by=timed_by)
    return Ready(bundle, means, TileRouter(means, wish, blend), run)


def wished(
    beta: float | None, budget: str | None, rule: str | None, price: str | None = None
) -> RoutingOptions:
    """Read how much is to be spent."""
    if beta is not None and budget is not None:
        raise UsageError("--beta and --image-budget: wanted one of them")
    allowed = None if budget is None else ImageBudget.read(budget)
    if price is None and allowed and allowed.ms is not None:
        price = "ms"
    return RoutingOptions(
        RoutingOptions.beta if beta is None else beta,
        allowed,
        RoutingOptions.rule if rule is None else rule,
        RoutingOptions.price if price is None else price,
    )


def refuse_for_networks(source: str, **flags: object) -> None:
    """Raise `UsageError` for a flag that only bundles have."""
    for name, value in flags.items():
        if value is not None and value is not False:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for bundles (thinlens adapt); {source} is none")
