"""Every file that is read may hold anything: one sentence, or values of the right types."""

from __future__ import annotations

import copy
import functools
import json
import resource
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_cases import denoising_checkpoint
from thinlens.adaptive.bundle import Bundle
from thinlens.adaptive.bundle_format import load_bundle, save_bundle
from thinlens.adaptive.error_log import ErrorLog
from thinlens.adaptive.estimator import EstimatorMetrics
from thinlens.adaptive.laplacian import LaplacianTable
from thinlens.checkpoints.format import load
from thinlens.checkpoints.weights_file import read_weights
from thinlens.engine.timings import TimingCache
from thinlens.errors import UsageError
from thinlens.experiments.runs import _read_record, renamed_identity
from thinlens.images.tiles import Tiling
from thinlens.models import create
from thinlens.models.fingerprint import fingerprint
from thinlens.restoration import field_cache
from thinlens.restoration.manifest import ManifestRecord, ResultManifest
from thinlens.stored_values import checked_value, from_stored
from thinlens.tasks import make_task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings
from thinlens.training.state import MetricsLog
from tiny_training import Freezing, TinyData, tiny_net

ODD_VALUES = (
    *(None, True, -1, 10**400, 0.5, float("nan"), float("inf"), "x", "\ud800", ""),
    *([], {}, [[]], [None], {"a": 1}, ["x", 1], [1, 2, 3, 4, 5], {"name": {}}),
)


@functools.cache
def folder() -> Path:
    """One file of each kind."""
    place = Path(mkdtemp(prefix="thinlens-stored-"))
    denoising_checkpoint(place / "checkpoint")
    network = load(place / "checkpoint")
    mark = fingerprint(network.module)
    estimator = create("mse-estimator", candidates=2, channels=1)
    metrics = EstimatorMetrics([1.0, 1.0], [1.0], [0.0, 0.0], [0.1, 0.1], [[[0.0, 0.0]]] * 2)
    bundle = Bundle(
        {"thin": network}, Tiling((16, 16)), True, estimator,
        LaplacianTable([-1.0, 0.0], [[-2.0, -1.0], [-1.0, 0.0]]), "learned",
        {"learned": metrics, "laplacian": metrics}, {"candidates": [mark]},
    )  # fmt: skip
    save_bundle(place / "bundle", bundle)
    line = {**vars(ManifestRecord("a.png", 1, "0" * 64, "net", "a.png", 0.1))}
    (place / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    run = {"made_by": {"cell": {"options": '{"m": 4}'}, "training": {}}, "scores": {"Set5": {}}}
    (place / "cell.json").write_text(json.dumps(run))
    (place / "errors.jsonl").write_text('{"measured": "key"}\n{"image": "a", "errors": [[1.0]]}\n')
    (place / "metrics.jsonl").write_text('{"step": 5, "loss": 0.1}\n')
    (place / "fields.json").write_text('{"key": [1, 1, 1, 0.0, null]}')
    (place / "timings.json").write_text('{"key": {"1": 0.5}}')
    return place


def read_checkpoint(place: Path) -> None:
    make_task(**load(place / "checkpoint").task)


def read_bundle(place: Path) -> None:
    tiling = load_bundle(place / "bundle").tiling
    tiling.tiles(40, 40)


def read_errors(place: Path) -> None:
    errors = ErrorLog(place / "errors.jsonl", "key").get("a")
    assert errors is None or errors.dim() == 2


def read_timings(place: Path) -> None:
    TimingCache(place / "timings.json").get("key", [1])


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a checkpoint": ("checkpoint/config.json", read_checkpoint),
    "a bundle": ("bundle/bundle.json", read_bundle),
    "a manifest": ("manifest.jsonl", lambda place: ResultManifest(place).refresh()),
    "a comparison's run": (
        "cell.json", lambda place: renamed_identity(_read_record(place / "cell.json")["made_by"])
    ),
    "measured errors": ("errors.jsonl", read_errors),
    "metrics": ("metrics.jsonl", lambda place: MetricsLog(place / "metrics.jsonl", 9)),
    "receptive fields": ("fields.json", lambda place: field_cache._read(place / "fields.json")),
    "timings": ("timings.json", read_timings),
}  # fmt: skip
"""By what is read: a file, and the function that reads its folder. New readers belong here."""


def changed(content: Any, places: list[int], value: Any) -> Any:
    """Put a value in the place that is reached by the numbers: at each level an entry, or stop."""
    if not places or not isinstance(content, dict | list) or not content:
        return value
    content = copy.copy(content)
    keys = list(content) if isinstance(content, dict) else range(len(content))
    key = keys[places[0] % len(keys)]
    content[key] = changed(content[key], places[1:], value)
    return content


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=25)
@given(st.lists(st.integers(0, 30), max_size=5), st.sampled_from(ODD_VALUES))
def test_a_value_of_another_type_is_a_sentence(kind: str, places: list[int], value: Any) -> None:
    name, read = READERS[kind]
    path = folder() / name
    whole = path.read_text()
    lines = whole.splitlines() if name.endswith("l") else [whole]
    read(folder())
    lines[-1] = json.dumps(changed(json.loads(lines[-1]), places, value))
    try:
        path.write_text("\n".join(lines) + "\n")
        read(folder())
    except UsageError as refusal:
        assert "\n" not in str(refusal)
        assert len(str(refusal)) < 1000
    finally:
        path.write_text(whole)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), max_size=3), st.sampled_from(ODD_VALUES))
def test_a_training_state_of_other_types_is_a_sentence(places: list[int], value: Any) -> None:
    path = training_folder() / "training.pt"
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    try:
        torch.save(changed(state, places, value), path)
        objective = Freezing(tiny_net())
        Trainer(Settings(steps=1, epoch_steps=20), path.parent).fit(objective, TinyData())
    except UsageError as refusal:
        assert str(path) in str(refusal)
    finally:
        path.write_bytes(whole)


@functools.cache
def training_folder() -> Path:
    place = Path(mkdtemp(prefix="thinlens-state-"))
    Trainer(Settings(steps=1, epoch_steps=20), place).fit(Freezing(tiny_net()), TinyData())
    return place


@dataclass
class Inner:
    sides: tuple[int, ...] = ()
    ratio: float | None = None


@dataclass
class Outer:
    name: str
    inner: dict[str, Inner]
    any: Any = None


def test_types_are_those_of_the_fields() -> None:
    content = {"name": "a", "inner": {"x": {"sides": [1, 2], "ratio": 3}}, "any": [{}]}
    assert from_stored(Outer, content, "it") == Outer("a", {"x": Inner((1, 2), 3)}, [{}])
    for value, problem in (
        ({"sides": 3}, "sides of 'x' of inner of it is 3: wanted an array"),
        ({"sides": [True]}, "is True: wanted a whole number"),
        ({"ratio": float("nan")}, "is nan: wanted a finite number or null"),
        ({"more": 1}, "has the unknown key 'more'"),
        ([], "'x' of inner of it is []: wanted an object"),
    ):
        with pytest.raises(UsageError) as caught:
            from_stored(Outer, {"name": "a", "inner": {"x": value}}, "it")
        assert problem in str(caught.value)
    with pytest.raises(UsageError, match="it lacks 'inner'"):
        from_stored(Outer, {"name": "a"}, "it")
    with pytest.raises(UsageError, match="wanted 2 values"):
        checked_value(tuple[int, int], [1], "sides")


def test_archives_that_grow_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(8)}, tmp_path / "small.pth")
    with (
        zipfile.ZipFile(tmp_path / "small.pth") as small,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for member in small.infolist():
            content = small.read(member)
            archive.writestr(member.filename, content)
        with archive.open("archive/data/1", "w", force_zip64=True) as member_file:
            for _ in range(100):
                member_file.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=r"would take 104,85.* bytes from"):
        read_weights(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_tensors_that_repeat_one_value_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, path)
    with pytest.raises(UsageError, match="larger than the whole file"):
        read_weights(path)
