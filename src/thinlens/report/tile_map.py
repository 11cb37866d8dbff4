"""Map of the tiles of an image: which network of a bundle restored which, with counts as text."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from thinlens.adaptive.route_map import PALETTE
from thinlens.images.tiles import Box
from thinlens.report.contents import ReportImage, TileRoutes

NUMBER_SHARE = 0.4
"""Height of a tile's number, relative to the tile's shorter side."""


def tile_map(image: ReportImage) -> str:
    """Return an image's map as HTML: a drawing, and the tiles of each network; empty without one.

    Tiles have the number of their network too: colour alone says nothing to many. The page's script
    lays the drawing over the result.
    """
    routes = image.routes
    if routes is None:
        return ""
    height, width = image.versions[0].image.shape[-2:]
    shown = Box(0, 0, height, width)
    tiles = (
        _tile(box, route, routes)
        for box, route in zip(routes.boxes, routes.routes, strict=True)
        if _overlaps(box, shown)
    )
    label = escape(f"Tiles of {image.name}. {routes.sentence}")
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    return (
        f'<figure class="routes" data-label="{escape(routes.label)}">'
        f"{opening}{''.join(tiles)}</svg>"
        f"<figcaption>Tiles by the network that restored them, in {escape(routes.label)}:"
        f'<ul class="legend">{"".join(_entries(routes))}</ul></figcaption></figure>'
    )


def _tile(box: Box, route: int, routes: TileRoutes) -> str:
    size = NUMBER_SHARE * min(box.height, box.width)
    free = " free" if route == len(routes.networks) - 1 else ""
    centre = f'x="{box.left + box.width / 2:g}" y="{box.top + box.height / 2:g}"'
    return (
        f'<rect class="tile{free}" x="{box.left}" y="{box.top}" width="{box.width}" '
        f'height="{box.height}" style="{_colour(route)}"/>'
        f'<text {centre} style="font-size:{size:g}px">{route + 1}</text>'
    )


def _entries(routes: TileRoutes) -> Iterator[str]:
    last = len(routes.networks) - 1
    for index, (name, count) in enumerate(zip(routes.networks, routes.counts, strict=True)):
        key = "" if index == last else f' style="{_colour(index)}"'
        unit = "tile" if count == 1 else "tiles"
        yield f"<li{key}>{index + 1} {escape(name)}: {count} {unit}</li>"


def _colour(route: int) -> str:
    red, green, blue = PALETTE[route % len(PALETTE)]
    return f"--key:rgb({red} {green} {blue})"


def _overlaps(box: Box, other: Box) -> bool:
    return (
        box.top < other.bottom
        and other.top < box.bottom
        and box.left < other.right
        and other.left < box.right
    )
