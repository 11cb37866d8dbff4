"""Every damaged or hostile checkpoint is refused with a sentence, soon, and without harm."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import random
import resource
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from small_layers import Toy, ToyConfig, bits, thin, toy
from thinlens import models
from thinlens.checkpoints.config_file import LARGEST_CONFIG_FILE
from thinlens.checkpoints.format import load, save
from thinlens.errors import UsageError
from thinlens.models.entry import ModelEntry
from thinlens.sparsity.pattern import SharedRanks
from thinlens.sparsity.ranks import magnitude_ranks

SECONDS = 1.0
"""The longest that a refusal may take."""

MEGABYTES = 100
"""The most memory that one may take."""

MUTATIONS = 2000


@pytest.fixture(autouse=True, scope="module")
def toy_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "toy", ModelEntry(Toy, ToyConfig(), "sr"))
        yield


@dataclass(frozen=True)
class Folder:
    """A checkpoint in pieces, to be damaged and written."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def entry(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(e for e in self.config["tensors"] if e["name"] == name)
        return found

    def write(self, folder: Path) -> None:
        write(folder, json.dumps(self.config).encode(), safetensors.torch.save(self.tensors))


def write(folder: Path, config: bytes, tensors: bytes) -> None:
    for name, content in (("config.json", config), ("model.safetensors", tensors)):
        (folder / name).unlink(missing_ok=True)  # some disks flush a file that is truncated
        (folder / name).write_bytes(content)


def signed(config: dict[str, Any], tensors: bytes) -> bytes:
    return json.dumps({**config, "sha256": hashlib.sha256(tensors).hexdigest()}).encode()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every encoding in it."""
    folder = tmp_path_factory.mktemp("saved")
    network = toy(config=ToyConfig(width=16))
    ranked = SharedRanks(magnitude_ranks(network.up.weight, network.up, 4), 4)
    patterns = {**thin(network, {"grouped": (2, 4), "linear": (1, 16)}), "up": ranked}
    save(folder, network, model="toy", task={"name": "sr"}, patterns=patterns)
    return folder


@pytest.fixture
def good(saved: Path) -> Folder:
    config = json.loads((saved / "config.json").read_text())
    encodings = {entry["encoding"] for entry in config["tensors"]}
    assert encodings == {"dense", "bitmask", "index", "ranks"}
    return Folder(config, safetensors.torch.load_file(saved / "model.safetensors"))


def refused(folder: Path) -> str:
    """Load, which must fail with one sentence; return it."""
    started = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError) as caught:
        load(folder)
    assert time.process_time() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEGABYTES * 1024
    sentence = str(caught.value)
    assert str(folder) in sentence
    assert len(sentence) < 1000
    assert "\n" not in sentence
    return sentence


CONFIG_CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another format": (lambda c: c.update(format=2), "format 2"),
    "no format": (lambda c: c.pop("format"), "format None"),
    "format true": (lambda c: c.update(format=True), "format True"),
    "unknown key": (lambda c: c.update(extra=1), "unknown key 'extra'"),
    "missing key": (lambda c: c.pop("sha256"), "lacks 'sha256'"),
    "unknown network": (lambda c: c.update(model="gan"), "unknown network 'gan'"),
    "network of no kind": (lambda c: c.update(model=["toy"]), "model is not a string"),
    "huge name": (lambda c: c.update(model="x" * 10**6), "unknown network"),
    "another network": (lambda c: c.update(model="dncnn-17", config={}), "not those of dncnn-17"),
    "unknown option": (lambda c: c["config"].update(depth=3), "no option 'depth'"),
    "text option": (lambda c: c["config"].update(width="8"), "option width"),
    "true as a width": (lambda c: c["config"].update(width=True), "option width"),
    "negative width": (lambda c: c["config"].update(width=-8), "option width"),
    "huge width": (lambda c: c["config"].update(width=2**40), "option width"),
    "large width": (lambda c: c["config"].update(width=65_536), "head.weight is shaped"),
    "odd width": (lambda c: c["config"].update(width=7), "cannot be built"),
    "no width": (lambda c: c["config"].update(width=0), "cannot be built|is shaped"),
    "not a number": (lambda c: c["config"].update(gain=float("nan")), "option gain"),
    "no config": (lambda c: c.update(config=[]), "config is not an object"),
    "no tensors": (lambda c: c.update(tensors={}), "tensors is not an array"),
    "empty tensors": (lambda c: c.update(tensors=[]), "not those of toy|more tensors"),
    "tensors of text": (lambda c: c.update(tensors=["a"]), "tensors is not an array"),
    "an entry too many": (
        lambda c: c["tensors"].append({**c["tensors"][0], "name": "\ud800\n"}),
        "unexpected",
    ),
    "an entry twice": (lambda c: c["tensors"].append(c["tensors"][0]), "twice"),
    "an entry too few": (lambda c: c["tensors"].pop(), "missing"),
    "no digest": (lambda c: c.update(sha256=""), "SHA-256"),
}


@pytest.mark.parametrize("case", CONFIG_CHANGES)
def test_a_changed_config_is_refused(case: str, good: Folder, tmp_path: Path) -> None:
    change, problem = CONFIG_CHANGES[case]
    tensors = safetensors.torch.save(good.tensors)
    config = copy.deepcopy(good.config)
    change(config)
    write(tmp_path, json.dumps(config).encode(), tensors)
    sentence = refused(tmp_path)
    assert any(part in sentence for part in problem.split("|")), sentence


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("head.weight", {"encoding": "zip"}, "unknown encoding 'zip'"),
        ("head.weight", {"encoding": ["dense"]}, "malformed|unknown encoding"),
        ("head.weight", {"dtype": "object"}, "unknown dtype"),
        ("head.weight", {"dtype": "float64"}, "float64"),
        ("head.weight", {"dtype": "int8"}, "int8"),
        ("head.weight", {"shape": [16, 3, 9]}, "is shaped"),
        ("head.weight", {"shape": [2**62, 2**62]}, "is shaped"),
        ("head.weight", {"shape": "16"}, "malformed"),
        ("head.weight", {"shape": [16, 3, 3, 3.0]}, "malformed"),
        ("head.weight", {"encoding": "bitmask"}, "lacks the tensor"),
        ("head.weight", {"n": 1}, "do not match"),
        ("head.weight", {"n": True, "m": True}, "malformed"),
        ("head.bias", {"n": 1, "m": 1}, "no weight that can be pruned"),
        ("norm.weight", {"n": 1, "m": 1}, "no weight that can be pruned"),
        ("norm.num_batches_tracked", {"dtype": "float32"}, "norm.num_batches_tracked is float32"),
        ("grouped.weight", {"n": 1}, "keeps 2 weights"),
        ("grouped.weight", {"encoding": "dense"}, "lacks the tensor"),
        ("linear.weight", {"n": 2}, "index must be"),
        ("linear.weight", {"m": 8}, "index must be"),
        ("linear.weight", {"m": 10**5000}, "0 <= N <= M|not JSON"),
        ("up.weight", {"m": 8}, "no permutation"),
        ("up.weight", {"n": 2}, "do not match"),
        ("up.weight", {"surprise": 2}, "unknown key 'surprise'"),
    ],
)
def test_a_changed_entry_is_refused(
    good: Folder, tmp_path: Path, name: str, change: dict[str, Any], problem: str
) -> None:
    config = copy.deepcopy(good.config)
    folder = replace(good, config=config)
    folder.entry(name).update(change)
    if change.get("m", 0) == 10**5000:
        folder.entry(name)["m"] = "HUGE"
        text = json.dumps(config).replace('"HUGE"', "1" + "0" * 5000).encode()
        write(tmp_path, text, safetensors.torch.save(good.tensors))
    else:
        folder.write(tmp_path)
    sentence = refused(tmp_path)
    assert any(part in sentence for part in problem.split("|")), sentence


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("head.weight", torch.zeros(1), "is shaped"),
        ("head.weight", torch.zeros(16, 3, 3, 3, dtype=torch.float64), "float64"),
        ("head.weight", None, "lacks the tensor 'head.weight'"),
        ("surplus", torch.zeros(1), "also has the tensor 'surplus'"),
        ("grouped.weight/mask", torch.zeros(144, dtype=torch.uint8), "values must be"),
        ("grouped.weight/mask", torch.full((144,), 255, dtype=torch.uint8), "values must be"),
        ("grouped.weight/mask", torch.zeros(143, dtype=torch.uint8), "bit mask must be"),
        ("grouped.weight/values", torch.zeros(0), "values must be"),
        ("linear.weight/index", torch.full((5, 1), 16, dtype=torch.uint8), "positions"),
        ("linear.weight/index", torch.full((5, 1), 255, dtype=torch.uint8), "values must be"),
        ("linear.weight/index", torch.zeros(5, 1, dtype=torch.int8), "index must be"),
        ("up.weight/ranks", torch.zeros(512, dtype=torch.uint8), "no permutation"),
        ("up.weight/ranks", torch.ones(511, dtype=torch.uint8), "ranks must be"),
    ],
)
def test_a_changed_tensor_with_the_right_digest_is_refused(
    good: Folder, tmp_path: Path, name: str, tensor: Tensor | None, problem: str
) -> None:
    tensors = {key: value for key, value in good.tensors.items() if key != name}
    if tensor is not None:
        tensors[name] = tensor
    content = safetensors.torch.save(tensors)
    write(tmp_path, signed(good.config, content), content)
    assert problem in refused(tmp_path)


def with_header(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class Dangerous:
    """A pickle that would leave a trace if it were loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trace",)


def bad_files(content: bytes) -> dict[str, bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    overlap, beyond, overflow, huge, text = (copy.deepcopy(header) for _ in range(5))
    overlap[names[1]]["data_offsets"] = overlap[names[0]]["data_offsets"]
    beyond[names[-1]]["data_offsets"][1] += 4
    overflow[names[0]]["data_offsets"] = [2**64 - 8, 8]
    huge[names[0]]["shape"] = [2**62, 2**62]
    text[names[0]]["dtype"] = "F4_E1M2"
    return {
        "empty": b"",
        "short": content[:5],
        "half": content[: len(content) // 2],
        "one byte short": content[:-1],
        "one byte more": content + b"\0",
        "header of 2^63": struct.pack("<Q", 2**63) + content[8:],
        "header of 2^64 - 1": struct.pack("<Q", 2**64 - 1) + content[8:],
        "header of 99 MB": struct.pack("<Q", 99 * 10**6) + content[8:],
        "header of 0": struct.pack("<Q", 0) + content[8:],
        "overlapping offsets": with_header(overlap, data),
        "offsets beyond the end": with_header(beyond, data),
        "offsets that overflow": with_header(overflow, data),
        "a shape that overflows": with_header(huge, data),
        "an unknown dtype": with_header(text, data),
        "a header that is no object": with_header([1, 2], data),  # type: ignore[arg-type]
        "a pickle": pickle.dumps(Dangerous()),
        "text": b"Not found\n",
    }


BAD_FILES = list(bad_files(safetensors.torch.save({"a": torch.ones(2), "b": torch.ones(2)})))


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("sign", [True, False])
def test_a_bad_tensors_file_is_refused(
    case: str, sign: bool, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = bad_files((saved / "model.safetensors").read_bytes())[case]
    config = (saved / "config.json").read_bytes()
    write(tmp_path, signed(json.loads(config), content) if sign else config, content)
    sentence = refused(tmp_path)
    assert "model.safetensors" in sentence
    assert ("not a safetensors file" if sign else "SHA-256") in sentence
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "config",
    [
        *(b"", b"{", b"null", b"[]", b"3", b'"text"', b"\xff\xfe\x00", b"\x80\x04K\x01."),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"format": ' + b"1" * 5000 + b"}"),
        b" " * (LARGEST_CONFIG_FILE + 1),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_a_bad_config_is_refused(config: bytes, saved: Path, tmp_path: Path) -> None:
    write(tmp_path, config, (saved / "model.safetensors").read_bytes())
    assert "config.json" in refused(tmp_path)


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    assert "not a checkpoint" in refused(tmp_path / "nothing")
    assert "not a checkpoint" in refused(tmp_path)
    (tmp_path / "config.json").mkdir()
    assert "not a checkpoint" in refused(tmp_path)
    (tmp_path / "config.json").rmdir()
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    assert "no such file" in refused(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    assert "no such file" in refused(tmp_path)


def test_a_file_of_a_terabyte_is_not_read(saved: Path, tmp_path: Path) -> None:
    write(tmp_path, (saved / "config.json").read_bytes(), b"")
    os.truncate(tmp_path / "model.safetensors", 2**40)
    assert "larger than" in refused(tmp_path)


def test_a_deep_network_in_a_small_file_is_not_built(
    tmp_path: Path, good: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**good.config, "model": "dncnn-17", "config": {"depth": 65_536, "width": 1}}
    write(tmp_path, json.dumps(config).encode(), b"")
    assert "more tensors than the file holds" in refused(tmp_path)


@pytest.mark.slow
def test_mutated_checkpoints_are_refused_or_whole(saved: Path, tmp_path: Path) -> None:
    """Bytes of either file are changed, cut and doubled at random, always the same ones.

    Tensors are changed in turn under their old digest, which finds everything, and under a new
    one, where only the header is hit: other values would be another, good checkpoint.
    """
    draw = random.Random(0)
    config, tensors = ((saved / name).read_bytes() for name in ("config.json", "model.safetensors"))
    weights = {name: bits(tensor) for name, tensor in load(saved).module.state_dict().items()}
    header = 8 + struct.unpack("<Q", tensors[:8])[0]
    accepted = 0
    for number in range(MUTATIONS):
        signs = number % 4 == 0
        if number % 2:
            write(tmp_path, mutated(config, len(config), draw), tensors)
        else:
            content = mutated(tensors, header if signs else len(tensors), draw)
            write(tmp_path, signed(json.loads(config), content) if signs else config, content)
        try:
            module = load(tmp_path).module
        except UsageError:
            continue
        accepted += 1
        state = {name: bits(tensor) for name, tensor in module.state_dict().items()}
        if signs:  # two tensors of one shape may have changed places
            state, whole = ({n: len(b) for n, b in some.items()} for some in (state, weights))
            assert state == whole
        else:
            assert state == weights
    assert accepted < MUTATIONS / 10


def mutated(content: bytes, reach: int, draw: random.Random) -> bytes:
    """Damage one to three places among the first `reach` bytes; the result is never `content`."""
    changed = content
    while changed == content:
        for _ in range(draw.randint(1, 3)):
            at, some = draw.randrange(reach), draw.randint(1, 50)
            head, byte, tail = changed[:at], changed[at : at + 1], changed[at + 1 :]
            changed = draw.choice(
                (
                    head + bytes([draw.randrange(256)]) + tail,
                    head + bytes(value ^ 1 << draw.randrange(8) for value in byte) + tail,
                    head + tail[some:],
                    head + changed[at : at + some] + byte + tail,
                    head + str(draw.choice((0, 1, -1, 255, 2**31, 2**63))).encode() + tail,
                )
            )
    return changed
