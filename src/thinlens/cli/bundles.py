"""How do words of the command line become a bundle that is ready to restore?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thinlens.adaptive.adapt import means_of
from thinlens.adaptive.bundle import Bundle, load_bundle
from thinlens.adaptive.candidates import Runners
from thinlens.adaptive.image_budget import ImageBudget
from thinlens.adaptive.router import TileRouter, Wish
from thinlens.api import runner
from thinlens.errors import UsageError


@dataclass(frozen=True)
class Ready:
    """A bundle and the router of its tiles."""

    bundle: Bundle
    router: TileRouter
    run: Runners


def ready(
    path: str,
    engine: str,
    *,
    beta: float | None = None,
    budget: str | None = None,
    rule: str | None = None,
    blend: int = 0,
) -> Ready:
    """Load a bundle and make its router; `UsageError` for a wish that makes no sense."""
    wish = wished(beta, budget, rule)
    bundle, run = load_bundle(Path(path)), partial(runner, engine=engine)
    return Ready(bundle, TileRouter(means_of(bundle, run), wish, blend), run)


def wished(beta: float | None, budget: str | None, rule: str | None) -> Wish:
    """Read how much is to be spent."""
    if beta is not None and budget is not None:
        raise UsageError("--beta and --image-budget: wanted one of them")
    return Wish(
        Wish.beta if beta is None else beta,
        None if budget is None else ImageBudget.read(budget),
        Wish.rule if rule is None else rule,
    )


def refuse_for_networks(source: str, **flags: object) -> None:
    """Raise `UsageError` for a flag that only bundles have."""
    for name, value in flags.items():
        if value is not None and value is not False:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for bundles (thinlens adapt); {source} is none")
