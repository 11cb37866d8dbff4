"""The report as one HTML page that needs nothing else: no network, no other file.

Without JavaScript its tables hold all figures and the pictures stand side by side; with it the
pictures can be compared by a slider, enlarged and moved together, and the charts drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from thinlens.files import atomic_write
from thinlens.report.contents import ImageVersion, ReportContents, ReportImage, ReportNetwork
from thinlens.report.embedding import LOSSLESS_QUALITY, difference_image, embed
from thinlens.report.headline import headline
from thinlens.report.tables import Table, format_giga, format_integer
from thinlens.report.tile_map import tile_map

ASSETS = Path(__file__).parent / "assets"

MOST_PICTURE_BYTES = 4_400_000
"""Characters of all pictures of a page together; with the rest it has less than 5 MB."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Content security: the page can load nothing."""

WITHOUT_SCRIPTS = (
    "Without JavaScript there are no sliders and no charts: the pictures stand side by side, and "
    "the tables hold all figures."
)


def write_interactive(path: Path, contents: ReportContents) -> None:
    """Write the report's page at `path`, at most 5 MB; it changes whole or not at all."""
    with atomic_write(path) as file:
        file.write(interactive_page(contents).encode())


def interactive_page(contents: ReportContents) -> str:
    """Return the page's HTML."""
    images = contents.worst_first
    pictures = [_pictures(image) for image in images]
    links, quality = embed([x for group in pictures for x in group], MOST_PICTURE_BYTES)
    fitting = _fitting(links, [len(group) for group in pictures])
    remaining = iter(links)
    viewers = [_viewer(image, remaining) for image in images[:fitting]]
    title, sentence, figures = headline(contents)
    data = json.dumps(_data(contents), allow_nan=False).replace("<", "\\u003c")
    stored = "lossless" if quality == LOSSLESS_QUALITY else f"quality {quality} of 100"
    remark = f"Pictures are stored as WebP, {stored}; decibels are those of the results themselves."
    if fitting < len(images):
        remark += f" {len(images) - fitting} images that lose less did not fit into the page."
    parts = [
        f'<div class="first"><header><h1>{escape(title)}</h1><p>{escape(sentence)}</p>'
        f"{_figures(figures)}</header>",
        _section("worst", "The image that loses most", viewers[:1] + _paragraph(remark, viewers)),
        "</div>",
        _section("times", "Milliseconds by engine", _times(contents)),
        _section("networks", "All networks", [*_networks(contents), *_charts(contents)]),
        _section("images", "The other images, those that lose most first", _grid(viewers[1:])),
        _section("layers", "What each layer keeps", _layers(contents)),
        _section("curves", "Searches and training by step", _curves(contents)),
        *(
            _section("", table.title, [_scrolled(_untitled(table), table.title)])
            for table in contents.tables
        ),
        _section("origin", "How it was measured", _origin(contents.origin)),
    ]
    style, script = (
        "\n".join((ASSETS / name).read_text() for name in names)
        for names in (("report.css",), ("viewer.js", "report.js"))
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)} - thinlens</title>\n<style>{style}</style></head>\n"
        f"<body>\n<noscript><p>{WITHOUT_SCRIPTS}</p></noscript>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f'\n</main>\n<script type="application/json" id="data">{data}</script>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )


def _fitting(links: Sequence[str], counts: Sequence[int]) -> int:
    """Return how many of the images, of `counts` links each, fit into the page; at least one."""
    ends = list(accumulate(counts))
    sizes = [sum(map(len, links[:end])) for end in ends]
    return max(1, sum(size <= MOST_PICTURE_BYTES for size in sizes))


def networks_table(contents: ReportContents) -> Table:
    """Return the table of all networks: costs, times and quality."""
    sets = list(dict.fromkeys(name for network in contents.networks for name in network.psnr))
    columns = ("network", "GMACs", "parameters", "bytes", "pruned in s", "ms")
    scores = tuple(f"{name} {metric}" for name in sets for metric in ("PSNR", "SSIM"))
    return Table(
        (*columns, *scores),
        [(*_costs(network), *_scores(network, sets)) for network in contents.networks],
    )


def _costs(network: ReportNetwork) -> tuple[str, ...]:
    return (
        network.name,
        "-" if network.macs is None else format_giga(network.macs),
        "-" if network.parameters is None else format_integer(network.parameters),
        "-" if network.bytes is None else format_integer(network.bytes),
        "-" if network.pruning_seconds is None else f"{network.pruning_seconds:.1f}",
        "-" if network.ms is None else f"{network.ms:.1f}",
    )


def _scores(network: ReportNetwork, sets: Sequence[str]) -> Iterator[str]:
    for name in sets:
        yield f"{network.psnr[name]:.2f}" if name in network.psnr else "-"
        yield f"{network.ssim[name]:.4f}" if name in network.ssim else "-"


def _section(name: str, heading: str, parts: Sequence[str]) -> str:
    if not parts:
        return ""  # nothing of the kind was measured
    identity = f' id="{name}"' if name else ""
    return f"<section{identity}><h2>{escape(heading)}</h2>\n" + "\n".join(parts) + "\n</section>"


def _grid(viewers: Sequence[str]) -> list[str]:
    return [f'<div class="viewers">{"".join(viewers)}</div>'] if viewers else []


def _paragraph(text: str, needed: Sequence[object] = (True,)) -> list[str]:
    return [f"<p>{escape(text)}</p>"] if needed else []


def _figures(figures: Sequence[tuple[str, str]]) -> str:
    items = (
        f"<div><dt>{escape(detail)}</dt><dd>{escape(value)}</dd></div>" for value, detail in figures
    )
    return f'<dl class="figures">{"".join(items)}</dl>'


def _networks(contents: ReportContents) -> list[str]:
    table = [_scrolled(networks_table(contents), "All networks")] if contents.networks else []
    return [*table, *(text for x in contents.paragraphs for text in _paragraph(x))]


def _scrolled(table: Table, label: str) -> str:
    region = f'class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"'
    return f"<div {region}>{table.html()}</div>"


def _untitled(table: Table) -> Table:
    return Table(table.columns, table.rows)


def _charts(contents: ReportContents) -> list[str]:
    scored = [network for network in contents.networks if network.psnr]
    charts = [
        f'<figure class="chart" data-x="{key}"><figcaption>{label}</figcaption></figure>'
        for key, label in (("ms", "PSNR by milliseconds"), ("macs", "PSNR by multiply-adds"))
        if sum(getattr(network, key) is not None for network in scored) > 1
    ]
    return [f'<div class="charts">{"".join(charts)}</div>'] if charts else []


def _times(contents: ReportContents) -> list[str]:
    caption = "Median milliseconds, the fastest first; the line is the 10th to the 90th percentile"
    chart = f'<figure class="times"><figcaption>{caption}</figcaption></figure>'
    return [chart] if contents.times else []


def _pictures(image: ReportImage) -> list[Tensor]:
    """Return the pictures of a viewer: the versions, then what each thin one differs in."""
    dense, *others = image.versions
    return [
        *(version.image for version in image.versions),
        *(difference_image(dense.image, other.image) for other in others),
    ]


def _viewer(image: ReportImage, links: Iterator[str]) -> str:
    dense, *others = image.versions
    shown = [_version(image, version, next(links)) for version in image.versions]
    shown += [_difference(image, dense, other, next(links)) for other in others]
    height, width = dense.image.shape[-2:]
    remark = f"<p>{escape(image.remark)}</p>" if image.remark else ""
    return (
        f'<figure class="viewer" data-width="{width}" data-height="{height}">'
        f"<figcaption><h3>{escape(image.name)}</h3>{remark}</figcaption>"
        f'<div class="versions">{"".join(shown)}</div>{tile_map(image)}</figure>'
    )


def _version(image: ReportImage, version: ImageVersion, link: str) -> str:
    quality = "" if version.psnr is None else f"{version.psnr:.2f} dB"
    label = escape(version.label)
    caption = f"{label} {quality}".strip()
    return (
        f'<figure class="version" data-label="{label}" data-quality="{quality}">'
        f'<img src="{link}" alt="{escape(image.name)}, {caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _difference(image: ReportImage, dense: ImageVersion, other: ImageVersion, link: str) -> str:
    caption = f"{escape(other.label)} minus {escape(dense.label)}, times 8"
    return (
        f'<figure class="difference" data-label="{escape(other.label)}">'
        f'<img src="{link}" alt="{escape(image.name)}, {caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _layers(contents: ReportContents) -> list[str]:
    thin = [network for network in contents.networks if network.layers]
    featured = contents.featured
    thin.sort(key=lambda network: network is not featured)
    tables = [
        f"<details><summary>Layers of {escape(network.name)} as a table</summary>"
        + _scrolled(_layer_table(network), network.name)
        + "</details>"
        for network in thin
    ]
    return ['<div id="layer-chart"></div>', *tables] if thin else []


def _layer_table(network: ReportNetwork) -> Table:
    return Table(
        ("layer", "shape", "N:M", "kept", "dense multiply-adds", "microseconds"),
        [
            (
                layer.name,
                layer.shape,
                f"{layer.n}:{layer.m}",
                f"{layer.kept:.1%}",
                format_integer(layer.dense_macs),
                "-" if layer.microseconds is None else f"{layer.microseconds:.0f}",
            )
            for layer in network.layers
        ],
    )


def _curves(contents: ReportContents) -> list[str]:
    panels = [
        f'<figure class="curve" data-curve="{index}"><figcaption>{escape(panel.label)}'
        "</figcaption></figure>"
        for index, panel in enumerate(contents.curves)
        if any(panel.lines.values())
    ]
    return [f'<div class="charts">{"".join(panels)}</div>'] if panels else []


def _origin(origin: Mapping[str, str]) -> list[str]:
    items = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in origin.items())
    return [f'<dl class="origin">{"".join(items)}</dl>'] if origin else []


def _data(contents: ReportContents) -> dict[str, Any]:
    """Return what the page's script draws."""
    featured = contents.featured
    return {
        "featured": featured.name if featured else None,
        "networks": [
            {**asdict(network), "mean_psnr": network.mean_psnr} for network in contents.networks
        ],
        "times": [asdict(row) for row in sorted(contents.times, key=lambda row: row.ms)],
        "curves": [asdict(panel) for panel in contents.curves],
    }
