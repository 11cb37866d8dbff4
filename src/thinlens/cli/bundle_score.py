"""How well does a bundle restore a folder of test images at one beta or budget?"""

from __future__ import annotations

from pathlib import Path

from thinlens.cli.bundles import Ready
from thinlens.cli.scores import protocol_of, scores
from thinlens.cli.verb import Answer
from thinlens.progress import progress_bar
from thinlens.report.tables import count, giga
from thinlens.restoration.evaluation import evaluate
from thinlens.sparsity.summary import price

PROBE = (64, 64)
"""Height and width of an input that shows how many parameters there are."""


def score(ready: Ready, folder: Path, *, seed: int) -> Answer:
    """Judge a bundle as a network is judged; `macs` are what its tiles took, scaled to 1280x720."""
    bundle, task = ready.bundle, ready.bundle.task
    with progress_bar("evaluating the bundle") as report:
        found = evaluate(ready.router, task, folder, seed=seed, progress=report)
    bill = ready.router.cost_report(task.scale)
    shape = (task.channels, *PROBE)
    networks = [(c.module, c.patterns) for c in bundle.checkpoints.values()]
    networks += [(bundle.estimator, {})]
    params = sum(price(module, patterns, shape).total.params for module, patterns in networks)
    content = {**found.as_json(), "macs": bill["hd_macs"], "params": params, "routing": bill}
    went = ", ".join(
        f"{name} {share:.1%}"
        for name, share in zip(bill["candidates"], bill["shares"], strict=True)
    )
    about = (
        f"{protocol_of(found)}; {giga(cost_report['hd_macs'])} GMACs at 1280x720 with margins and "
        f"estimator, {count(params)} parameters in all networks\n"
        f"{cost_report['tiles']} tiles: {went}"
    )
    made = f"\nthe inputs are {found.synthetic}, seed {seed}" if found.synthetic else ""
    return Answer(content, (scores(found).rich(), about + made))
