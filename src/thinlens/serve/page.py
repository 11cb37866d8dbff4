"""The page of the server: HTML whose form works without JavaScript, its style and its script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from thinlens.images.formats import SUFFIXES, WRITABLE
from thinlens.report.interactive import ASSETS
from thinlens.restoration.options import SAME_FORMAT
from thinlens.serve.limits import ServerLimits
from thinlens.serve.networks import NetworkEntry

_FOLDER = Path(__file__).parent / "assets"

PAGE_ASSETS = {
    "report.css": ASSETS / "report.css",
    "page.css": _FOLDER / "page.css",
    "viewer.js": ASSETS / "viewer.js",
    "page.js": _FOLDER / "page.js",
}
"""Files of the page by name; the viewer of pictures and most of the style are the report's."""

TASK_NAMES = {
    "sr": "Enlarge",
    "deblur": "Sharpen",
    "denoise": "Remove noise",
    "denoise-jpeg": "Remove noise and traces of JPEG",
    "dehaze": "Remove haze",
    "derain": "Remove rain",
    "restore": "Restore",
}
"""What a task does, as the heading of its networks."""

SECONDS_PER_MINUTE = 60


def served_page(
    networks: Sequence[NetworkEntry], precisions: Sequence[str], limits: ServerLimits
) -> str:
    """Return the page's HTML; networks are listed by what they do."""
    selected = default_network(networks)
    groups: dict[str, list[str]] = {}
    for entry in networks:
        heading = TASK_NAMES.get(entry.task, entry.task)
        groups.setdefault(heading, []).append(_network_option(entry, entry is selected))
    lists = [
        f'<optgroup label="{escape(heading)}">{"".join(options)}</optgroup>'
        for heading, options in groups.items()
    ]
    template = Template((_FOLDER / "page.html").read_text())
    return template.substitute(
        networks="".join(lists),
        precisions=_options(precisions, "fp32"),
        formats=_options((*WRITABLE, SAME_FORMAT), "png"),
        accept=",".join(["image/*", *sorted(SUFFIXES)]),
        most_bytes=limits.bytes,
        minutes=max(1, round(limits.kept_seconds / SECONDS_PER_MINUTE)),
        bundles="" if any(entry.is_bundle for entry in networks) else " hidden",
    )


def default_network(networks: Sequence[NetworkEntry]) -> NetworkEntry:
    """Return the network that is selected at first: a given one, else a thin one that enlarges."""
    first, *_ = networks
    thin = (entry for entry in networks if entry.budget and entry.scale > 1)
    return next(thin, first) if first.budget is None and not first.is_bundle else first


def error_page(sentence: str) -> str:
    """Return a page with one sentence of HTML and the way back."""
    return Template((_FOLDER / "error.html").read_text()).substitute(sentence=sentence)


def _network_option(entry: NetworkEntry, selected: bool) -> str:
    short = [f"x{entry.scale}"] if entry.scale > 1 else []
    short += [entry.budget] if entry.budget else []
    text = f"{entry.name} ({', '.join(short)})" if short else entry.name
    kind = ' data-bundle=""' if entry.is_bundle else ""
    chosen = " selected" if selected else ""
    return (
        f'<option value="{escape(entry.name)}" data-details="{escape(network_details(entry))}"'
        f"{kind}{chosen}>{escape(text)}</option>"
    )


def network_details(entry: NetworkEntry) -> str:
    """Return what a network does, keeps and weighs.

    >>> network_details(NetworkEntry("thin", False, "sr", 4, "1/4", 399_384))
    'enlarges 4 times, 1/4 of the multiply-adds kept, 399,384 bytes'
    """
    parts = [f"enlarges {entry.scale} times"] if entry.scale > 1 else []
    parts += [f"{entry.budget} of the multiply-adds kept"] if entry.budget else []
    parts += ["selects a network for every tile"] if entry.is_bundle else []
    parts += [] if entry.bytes is None else [f"{entry.bytes:,} bytes"]
    return ", ".join(parts)


def _options(values: Sequence[str], selected: str) -> str:
    return "".join(
        f"<option{' selected' if value == selected else ''}>{escape(value)}</option>"
        for value in values
    )
