"""Pruning methods, by the name that `--method` takes: a file or a folder for each."""

from __future__ import annotations

from thinlens.methods.channels.assl import Assl
from thinlens.methods.channels.filter import Filter
from thinlens.methods.classpruning.baselines import ChannelSkip, LayerSkip, MultiDepth, MultiWidth
from thinlens.methods.classpruning.method import ClassPruning
from thinlens.methods.fmp.method import Fmp
from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.method import Method
from thinlens.methods.one_shot import OneShot
from thinlens.methods.repair import Repair
from thinlens.methods.sls.method import Sls
from thinlens.methods.sr_ste import SrSte
from thinlens.sparsity.pattern import Pruned

METHODS: dict[str, type[Method]] = {
    "one-shot": OneShot,
    "least-squares": LeastSquares,
    "repair": Repair,
    "sls": Sls,
    "sr-ste": SrSte,
    "classpruning": ClassPruning,
    "multi-width": MultiWidth,
    "multi-depth": MultiDepth,
    "channel-skip": ChannelSkip,
    "layer-skip": LayerSkip,
    "filter": Filter,
    "assl": Assl,
    "fmp": Fmp,
}
"""Every method by its `NAME`; a third party passes an instance or adds an entry."""

__all__ = ["METHODS", "Method", "Pruned"]
