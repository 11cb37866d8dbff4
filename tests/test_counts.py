"""The counts of every named network are those of the papers, and exact."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import classpruning_forms
from thinlens.models import MODELS
from thinlens.sparsity import cost as cost_module
from thinlens.sparsity import prunable as prunable_module
from thinlens.sparsity.cost import cost
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.prunable import find_layers

FOLDER = Path(__file__).parent / "golden"
COUNTS = json.loads((FOLDER / "counts.json").read_text())
"""Rows of every name, scale, pattern or width and convention. A size is the output's for
super-resolution (the input is floor(size / scale)), else the input's."""
TABLES = json.loads((FOLDER / "sls_tables.json").read_text())
"""Every cell of the cost columns of SLS's Tables 1, 2, S1 and S2, and what became of it."""

Row = dict[str, Any]
NAMES = sorted({(row["name"], row["scale"]) for row in COUNTS})


@pytest.fixture(autouse=True)
def one_dry_run_a_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at each network once, not once a row: this file prices some 250 rows."""
    remembered = lru_cache(maxsize=None)(dry_run)
    for module in (cost_module, prunable_module):
        monkeypatch.setattr(module, "dry_run", remembered)
    yield
    remembered.cache_clear()


@lru_cache(maxsize=8)
def built(name: str, scale: int, width: str) -> Any:
    entry = MODELS[name]
    config = entry.make_config(scale=scale) if scale > 1 else entry.config
    return entry.build(entry.scale_widths(config, Fraction(width)))


def counted(row: Row) -> dict[str, int | None]:
    """Price the network of a golden row."""
    network = built(row["name"], row["scale"], row["width"])
    width, height = (int(side) // row["scale"] for side in row["size"].split("x"))
    example = (1, MODELS[row["name"]].channels, height, width)
    n, m = (int(x) for x in row["pattern"].split(":")) if row["pattern"] else (0, 32)
    layers = find_layers(network, example, m=m, policy=row["policy"])
    kept = {layer.name: n for layer in layers if layer.prunable} if row["pattern"] else {}
    price = cost(network, example, layers, kept, row["convention"])
    return {key: getattr(price, key) for key in ("params", "macs", "flops", "prunable_macs")}


@pytest.mark.parametrize(("name", "scale"), NAMES)
def test_counts_are_golden(name: str, scale: int) -> None:
    for row in COUNTS:
        if (row["name"], row["scale"]) == (name, scale):
            assert {**row, **counted(row)} == row


def test_every_network_is_in_the_golden_table() -> None:
    assert {name for name, _ in NAMES} == set(MODELS)


# Closed forms: every convolution listed by hand from the papers' descriptions.

Convolution = tuple[int, int, int, int, bool]
"""Input channels, output channels, kernel side, output positions, whether it may be pruned."""


def upsampling(c: int, scale: int, p: int) -> Iterator[Convolution]:
    for step in range(2 if scale == 4 else 1):
        yield c, c * (9 if scale == 3 else 4), 3, p * 4**step, True


def edsr(c: int, count: int, scale: int, p: int, _: int) -> Iterator[Convolution]:
    yield 3, c, 3, p, False
    yield from [(c, c, 3, p, True)] * (2 * count + 1)
    yield from upsampling(c, scale, p)
    yield c, 3, 3, p * scale**2, False


def carn(c: int, _: int, scale: int, p: int, __: int) -> Iterator[Convolution]:
    yield 3, c, 3, p, False
    yield from [(c, c, 3, p, True)] * 18
    for joined in (2, 3, 4):
        yield from [(joined * c, c, 1, p, True)] * 4
    yield from upsampling(c, scale, p)
    yield c, 3, 3, p * scale**2, False


def rfdn(c: int, f: int, scale: int, p: int, small: tuple[int, int]) -> Iterator[Convolution]:
    strided, pooled = small
    yield 3, c, 3, p, False
    for _ in range(4):
        yield from [(c, c // 2, 1, p, True), (c, c, 3, p, True)] * 3
        yield c, c // 2, 3, p, True
        yield 4 * (c // 2), c, 1, p, True
        yield from [(c, f, 1, p, True), (f, f, 1, p, True), (f, c, 1, p, True)]
        yield f, f, 3, strided, True
        yield from [(f, f, 3, pooled, True)] * 3
    yield 4 * c, c, 1, p, True
    yield c, c, 3, p, True
    yield c, 3 * scale**2, 3, p, True


def esrb(c: int, f: int, scale: int, p: int, small: tuple[int, int]) -> Iterator[Convolution]:
    strided, pooled = small
    yield 3, c, 3, p, False
    for _ in range(6):
        yield from [(c, c, 3, p, True)] * 2
        yield from [(c, c, 1, p, True), (c, f, 1, p, True), (f, f, 1, p, True), (f, c, 1, p, True)]
        yield f, f, 3, strided, True
        yield f, f, 3, pooled, True
    yield c, c, 3, p, True
    yield c, 3 * scale**2, 3, p, True


def dncnn(c: int, depth: int, channels: int, p: int, _: Any) -> Iterator[Convolution]:
    yield channels, c, 3, p, False
    yield from [(c, c, 3, p, True)] * (depth - 2)
    yield c, channels, 3, p, False


def blocks(c: int, side: int, p: int, count: int) -> list[Convolution]:
    return [(c, c, side, p, True)] * (2 * count)


def unet(c: int, _: int, __: int, p: int, ___: Any) -> Iterator[Convolution]:
    yield 3, c, 3, p, False
    yield c, 2 * c, 3, p // 4, True
    yield 2 * c, 3 * c, 3, p // 16, True
    yield from blocks(3 * c, 3, p // 16, 8)
    yield 3 * c, 4 * (2 * c), 3, p // 16, True
    yield 2 * c, 4 * c, 3, p // 4, True
    yield c, 3, 3, p, False


def pyramid(c: int, ends: tuple[int, int], side: int, p: int, count: int) -> Iterator[Convolution]:
    """One encoder and decoder with `count` residual blocks a stage, fed `ends[0]` channels."""
    image, first = ends
    yield image, c, first, p, False
    for width, positions in ((c, p // 4), (2 * c, p // 16)):
        yield width, 2 * width, side, positions, True
        yield 2 * width, 4 * width, 3, positions, True
    for width, positions in ((c, p), (2 * c, p // 4), (4 * c, p // 16)):
        yield from blocks(width, side, positions, 2 * count)
    yield c, 3, first, p, False


def deblurring(name: str, c: int, p: int) -> tuple[list[Convolution], int]:
    """Return the convolutions and the outputs of the ReLU modules at `p` pixels."""
    c = c if name == "unet" else c // 2
    inside = (c * p, 2 * c * p // 4, 4 * c * p // 16)
    """Outputs of a residual block's ReLU at 1, 1/2 and 1/4 of the resolution."""
    if name == "unet":
        return list(unet(c, 0, 0, p, 0)), 8 * 3 * c * p // 16
    if name == "dmphn":
        return 4 * list(pyramid(c, (3, 3), 3, p, 2)), 4 * 2 * 2 * sum(inside)
    # SRN's three passes share weights: p counts the positions of all of them. A ReLU follows each
    # of the three encoders' first convolutions and both shuffles.
    passes = p + p // 4 + p // 16
    relus = 2 * 3 * sum(inside) + sum(inside) + inside[0] + inside[1]
    return list(pyramid(c, (6, 5), 5, passes, 3)), relus * passes // p


def real_esrgan(name: str, c: int, s: int, p: int) -> tuple[list[Convolution], int, int]:
    """Return the convolutions, no activations (ptflops counts no PReLU), and the slopes."""
    if name == "srvgg":
        chain = [(c, c, 3, p, True)] * 16
        return [(3, c, 3, p, False), *chain, (c, 3 * s * s, 3, p, True)], 0, 17 * c
    growth = c // 2
    inside = [(c + k * growth, growth, 3, p, True) for k in range(4)]
    block = [*inside, (c + 4 * growth, c, 3, p, True)]
    trunk = [(3, c, 3, p, False), *block * 69, (c, c, 3, p, True)]
    sizes = [4 * p, 16 * p] if s == 4 else [s * s * p]
    large = [(c, c, 3, size, True) for size in [*sizes, s * s * p]]
    return [*trunk, *large, (c, 3, 3, s * s * p, False)], 0, 0


FULL_WIDTHS = {"rfdn-aim": 50, "edsr-8-128": 128, "esrb-6-256": 256}


def estimator(c: int, p: int) -> tuple[list[Convolution], int]:
    """Return an estimator's convolutions and the outputs of its ReLUs; its head is one too."""
    places = [p // 16, p // 16, p // 64, p // 64, p // 256, p // 256]
    body = [(c, c, 3, here, True) for here in places[1:5]]
    found = [(3, c, 3, places[0], False), *body, (c, c, 1, places[5], True), (c, 1, 1, 1, True)]
    return found, c * sum(places)


def closed_form(row: Row) -> tuple[list[Convolution], int, int]:  # noqa: PLR0911 - a family each
    """Return the convolutions, the outputs of activation modules and the batch norms' weights."""
    name, s, width = row["name"], row["scale"], Fraction(row["width"])
    w, h = (int(side) // s for side in row["size"].split("x"))
    p, c = w * h, int(FULL_WIDTHS.get(name, 64) * width)
    if name.startswith("edsr"):
        count = 8 if name == "edsr-8-128" else 16
        return list(edsr(c, count, s, p, 0)), count * c * p, 0
    if name == "carn":
        shuffled = c * p * {2: 4, 3: 9, 4: 4 + 16}[s]
        return list(carn(c, 0, s, p, 0)), (9 + 12) * c * p + shuffled, 0
    a, b = (h - 3) // 2 + 1, (w - 3) // 2 + 1
    small = (a * b, ((a - 7) // 3 + 1) * ((b - 7) // 3 + 1))
    if name == "esrb-6-256":
        return list(esrb(c, int(16 * width), s, p, small)), 6 * 2 * c * p, 0
    if name.startswith("rfdn"):
        f = int((12 if name == "rfdn-aim" else 32) * width)
        return list(rfdn(c, f, s, p, small)), 4 * (4 * (c // 2) + 3 * c) * p + c * p, 0
    if name in ("unet", "srn", "dmphn", "mse-estimator"):
        return *(estimator(c, p) if name == "mse-estimator" else deblurring(name, c, p)), 0
    if name in ("srvgg", "rrdb"):
        return real_esrgan(name, c, s, p)
    depth, channels = int(name.split("-")[1]), 3 if name.endswith("rgb") else 1
    norms = 2 * c * (depth - 2) if depth == 20 else 0
    return list(dncnn(c, depth, channels, p, 0)), (depth - 1) * c * p, norms


@pytest.mark.parametrize(("name", "scale"), NAMES)
def test_golden_counts_are_the_closed_forms(name: str, scale: int) -> None:
    for row in COUNTS:
        if (row["name"], row["scale"]) != (name, scale):
            continue
        if name in classpruning_forms.FORMS:
            assert {**row, **classpruning_forms.expected(row)} == row
            continue
        convolutions, activations, params = closed_form(row)
        n, m = (int(x) for x in (row["pattern"] or "32:32").split(":"))
        macs = activations if row["convention"] == "sls" else 0
        prunable, bias = 0, row["convention"] != "fmp"
        for c_in, c_out, side, positions, may in convolutions:
            kept = c_in
            if may and (c_in % m == 0 or row["policy"] == "pad"):
                kept = c_in // m * n + min(n, c_in % m)
                prunable += c_in * c_out * side**2 * positions
            params += kept * c_out * side**2 + c_out
            macs += (kept * side**2 + bias) * c_out * positions
        flops = 2 * macs if row["convention"] == "classpruning" else None
        expected = {"params": params, "macs": macs, "flops": flops, "prunable_macs": prunable}
        assert {**row, **expected} == row


def test_the_estimator_has_the_size_that_sls_prints() -> None:
    (row,) = (r for r in COUNTS if (r["name"], r["pattern"]) == ("mse-estimator", ""))
    assert (f"{row['params'] / 1e6:.2f}", f"{row['macs'] / 1e9:.2f}") == ("0.15", "3.45")
    assert (row["params"], f"{row['macs'] / 1e9:.4f}") == (153_729, "3.4514")  # SLS, section S4


def test_what_design_promises() -> None:
    by_key = {
        (r["name"], r["scale"], r["pattern"], r["width"], r["convention"]): r
        for r in COUNTS
        if r["policy"] == "skip"
    }
    assert by_key["edsr", 4, "8:32", "1", "sls"]["macs"] == 30_087_475_200
    assert by_key["carn", 4, "8:32", "1", "sls"]["macs"] == 24_329_318_400
    # ClassPruning, Tables 1 and 5: 0.668M, 87.28G; in colour 0.671M and 87.58G (truncated)
    grey = by_key["dncnn-20", 1, "", "1", "classpruning"]
    assert (grey["params"], round(grey["flops"] / 1e9, 2)) == (668_225, 87.28)
    colour = by_key["dncnn-20-rgb", 1, "", "1", "classpruning"]
    assert (colour["params"], colour["flops"] // 10**7) == (670_531, 8758)
    # A sparse branch is charged N/M of everything in the paper, ends and biases too: 21.82
    assert round(grey["flops"] / 4e9, 2) == 21.82
    # Table 5: the widths; its 5.520 and 5.580 of width 16 are 0.1 % and 0.2 % off ours
    for width, printed in (("1/2", 21.90), ("2", 348.5), ("4", 1393)):
        wide = by_key["dncnn-20", 1, "", width, "classpruning"]["flops"] / 1e9
        assert wide == pytest.approx(printed, abs=0.5 if width == "4" else 0.05)
    # Table 1: SRN 10.25M and 217.2G; RESCAN's FLOPs have 24 channels, its parameters 48
    srn = by_key["srn-lstm", 1, "", "1", "classpruning"]
    assert (srn["params"], round(srn["flops"] / 1e9, 1)) == (10_250_723, 217.2)
    narrow = by_key["rescan-24", 1, "", "1", "classpruning"]
    assert narrow["flops"] / 1e9 == pytest.approx(64.50, abs=0.01)
    wide_rescan = by_key["rescan-48", 1, "", "1", "classpruning"]
    assert wide_rescan["params"] == pytest.approx(589e3, rel=2e-3)
    # Table 3: 22.24G are 60.4 % of GCANet, 21.94G are 59.6 %: so it sees three channels
    clear = by_key["gcanet", 1, "", "1", "classpruning"]["flops"] / 1e7
    assert (round(2224e2 / clear, 1), round(2194e2 / clear, 1)) == (60.4, 59.6)
    # CP-DnCNN has 0.754M: the network, two more sets of 18 norms, and the classifier
    judge = by_key["classifier", 1, "", "1", "classpruning"]["params"]
    assert round((grey["params"] + 2 * 18 * 128 + judge) / 1e6, 3) == 0.754
    # M = 32 divides no layer of the released RFDN, so nothing can be pruned
    assert by_key["rfdn-aim", 4, "8:32", "1", "sls"]["prunable_macs"] == 0
    for row in COUNTS:  # every prunable width is a multiple of 32: M does not matter
        if row["name"] != "rfdn-aim" and row["pattern"] in ("2:8", "4:16"):
            key = (row["name"], row["scale"], "8:32", row["width"], row["convention"])
            assert row["macs"] == by_key[key]["macs"]


# SLS's tables. The paper's own arithmetic with rounded numbers lives here and nowhere else.

RATIOS = {"2:4": Fraction(1, 2), "8:32": Fraction(1, 4), "4:32": Fraction(1, 8)}
RATIOS |= {"2:32": Fraction(1, 16), "4:16": Fraction(1, 4), "2:8": Fraction(1, 4)}

GIGA = {"edsr": "114.49", "carn": "91.22", "rfdn": "39.86"}
GIGA |= {"unet": "458.04", "srn": "1200.51", "dmphn": "994.48"}
PART = {"edsr": "112.54", "carn": "89.366", "carn 2:4": "89.18", "rfdn": "39.679"}
PART |= {"unet": "454.40", "srn": "1190.32", "dmphn": "985.24"}
"""Prunable GMACs as the paper's rows need them: with biases in RFDN and CARN but 2:4, else
weights."""

KILO = {"edsr": ("1370", "1366"), "edsr 2:4": ("1520", "1510"), "carn": ("1110", "1108.3")}
KILO |= {"carn 2:4": ("1110", "1090"), "rfdn": ("828.75", "825.0")}
KILO |= {"unet": ("6790", "6787"), "srn": ("7090", "7080"), "dmphn": ("8050", "8046")}
"""Parameters in thousands, total and prunable. EDSR's M = 32 rows are those of the x2 network."""


def rounded(value: Decimal, like: str) -> str:
    """Print `value` to the digits of `like`."""
    return str(value.quantize(Decimal(like), ROUND_HALF_UP))


def papers_arithmetic(row: Row, column: str) -> str | None:
    """Compute a one-shot cell as total - (1 - N/M) prunable, from rounded numbers."""
    if row["pattern"] not in RATIOS:
        return None
    model, special = row["model"], f"{row['model']} {row['pattern']}"
    if column == "gmacs":
        total, part = GIGA[model], PART.get(special, PART[model])
    else:
        total, part = KILO.get(special, KILO[model])
    removed = 1 - RATIOS[row["pattern"]]
    value = Decimal(total) - Decimal(part) * removed.numerator / removed.denominator
    printed = row[column]["printed"]
    return rounded(value / 1000 if printed.endswith("M") else value, printed.rstrip("KM"))


def status(row: Row, column: str, ours: int) -> str:
    """Judge a cell of the paper by our integer."""
    printed = row[column]["printed"]
    number = printed.rstrip("KM")
    unit = {"K": 10**3, "M": 10**6}.get(printed[-1], 10**9)
    if f"{ours / unit:.2f}" == number:  # a tie falls as it falls in floating point: 157.755
        return "matched"
    if papers_arithmetic(row, column) == number:
        return "matched by the paper's arithmetic"
    return "mismatch"


@pytest.mark.parametrize("row", TABLES["rows"], ids=lambda r: f"{r['model']} {r['method']}")
def test_a_row_of_sls_is_matched_or_explained(row: Row) -> None:
    for column, key in (("gmacs", "macs"), ("params", "params")):
        cell = row[column]
        if row["method"] == "SLS (Ours)":
            assert cell["status"] == "not compared"
        else:
            (golden,) = (
                r
                for r in COUNTS
                if (r["name"], r["convention"]) == (row["model"], "sls")
                and r["scale"] in (1, 4)
                and (r["pattern"], r["width"], r["policy"])
                == (row["pattern"], row["width"], "skip")
            )
            assert cell["ours"] == golden[key]
            assert cell["status"] == status(row, column, golden[key])
        assert cell["status"] == "matched" or cell["reason"] in TABLES["reasons"]


def test_every_table_of_costs_is_there() -> None:
    found = Counter((row["table"], row["model"]) for row in TABLES["rows"])
    expected = {("1", name): 14 for name in ("unet", "srn", "dmphn")}
    expected |= {("2", name): 14 for name in ("edsr", "carn", "rfdn")}
    assert found == expected | {("S1", "unet"): 11, ("S2", "rfdn"): 11}


def test_only_known_cells_mismatch() -> None:
    """No other cell may join them without a reason."""
    mismatches = {
        (row["model"], row["method"], row[column]["printed"])
        for row in TABLES["rows"]
        for column in ("gmacs", "params")
        if row[column]["status"] == "mismatch"
    }
    slips = {("rfdn", "Unpruned", "828.75K")}
    for method in ("One-shot", "SR-STE"):
        slips |= {("rfdn", f"{method} (4:32)", "5.17"), ("carn", f"{method} (8:32)", "278.76K")}
        slips |= {("srn", f"{method} (2:32)", "252.50K")}
    assert mismatches == slips
