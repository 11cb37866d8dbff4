"""Files of earlier versions: bundles, manifests and fingerprints stay readable and valid."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cli_cases import run
from thinlens.adaptive.bundle_format import load_bundle
from thinlens.models import MODELS
from thinlens.models.fingerprint import fingerprint, settings_text
from thinlens.models.legacy_fingerprint import LEGACY_CLASSES, fingerprints

GOLDEN = Path(__file__).parent / "golden"
BUNDLE = GOLDEN / "bundle-format-1"
"""A bundle, an image, and what `restore` made of it, by the code of 91f6d5f (27 November 2026)."""

CASES = {
    "restored": (BUNDLE / "bundle", ("--beta", "0.05")),
    "restored-thin": (BUNDLE / "bundle" / "candidates" / "e39baa5be1479206", ()),
}
"""What was restored by what."""


def restore(case: str, out: Path) -> dict[str, int]:
    model, options = CASES[case]
    words = ("restore", BUNDLE / "input", "--model", model, "--out", out, "--engine", "torch")
    ran = run(*words, *options, "--json")
    assert ran.status == 0, ran.err
    return {key: ran.json[key] for key in ("done", "failed", "skipped")}


def pixels(folder: Path) -> np.ndarray:
    with Image.open(folder / "picture.png") as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("case", CASES)
def test_an_old_bundle_restores_the_same_pixels(case: str, tmp_path: Path) -> None:
    assert restore(case, tmp_path) == {"done": 1, "failed": 0, "skipped": 0}
    # torch's convolutions round differently on other CPUs
    assert np.abs(pixels(tmp_path) - pixels(BUNDLE / case)).max() <= 1
    old, new = (
        json.loads((folder / "manifest.jsonl").read_text()) for folder in (BUNDLE / case, tmp_path)
    )
    assert old.keys() <= new.keys()  # keys are added
    if case == "restored":
        assert set(new["routes"]["route"]) == {0, 2}
        assert new["routes"]["route"] == old["routes"]["route"]


@pytest.mark.parametrize("case", CASES)
def test_an_old_manifest_is_not_done_again(case: str, tmp_path: Path) -> None:
    shutil.copytree(BUNDLE / case, tmp_path, dirs_exist_ok=True)
    assert restore(case, tmp_path) == {"done": 0, "failed": 0, "skipped": 1}


def test_an_old_manifest_of_other_options_is_done_again(tmp_path: Path) -> None:
    shutil.copytree(BUNDLE / "restored", tmp_path, dirs_exist_ok=True)
    words = ("restore", BUNDLE / "input", "--model", BUNDLE / "bundle", "--out", tmp_path)
    ran = run(*words, "--engine", "torch", "--beta", "0.06", "--json")
    assert ran.json["done"] == 1


def test_the_text_of_every_kind_of_network_is_golden() -> None:
    """Bundles and manifests hold digests of these texts: a change here invalidates them."""
    texts = {
        name: [settings_text_of(entry.config), settings_text_of(entry.make_config(**entry.tiny))]
        for name, entry in MODELS.items()
    }
    golden = json.loads((GOLDEN / "fingerprint-texts.json").read_text())
    assert {name: texts[name] for name in golden} == golden


def settings_text_of(config: object) -> str:
    kind = next(n for n, entry in MODELS.items() if type(entry.config) is type(config))
    return settings_text(kind, config)


@dataclass(frozen=True)
class Before:
    width: int = 8


@dataclass(frozen=True)
class After:
    width: int = 8
    new: tuple[int, ...] = ()


def test_a_text_is_independent_of_class_names_and_default_fields() -> None:
    assert settings_text("x", Before(4)) == settings_text("x", After(4))
    assert settings_text("x", Before(4)) != settings_text("y", Before(4))
    assert settings_text("x", After(4)) != settings_text("x", After(4, (1,)))


def test_a_fingerprint_depends_on_config_and_every_tensor() -> None:
    entry = MODELS["dncnn-17"]
    config = entry.make_config(**entry.tiny)
    torch.manual_seed(0)
    network = entry.build(config)
    before = fingerprint(network)
    assert before == fingerprint(network)
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.flatten()[0] += 1
        assert fingerprint(network) != before
        before = fingerprint(network)
    assert fingerprint(nn.Conv2d(1, 1, 1)) != fingerprint(nn.Conv2d(1, 1, 1))


def test_legacy_fingerprints_name_the_networks_of_the_bundle() -> None:
    bundle = load_bundle(BUNDLE / "bundle")
    names = [p.name for p in (BUNDLE / "bundle" / "candidates").iterdir()]
    modules = [c.module for c in bundle.checkpoints.values()]
    assert sorted(fingerprints(module)[1] for module in modules) == sorted(names)
    assert {"rfdn", "mse-estimator"} <= LEGACY_CLASSES.keys()
