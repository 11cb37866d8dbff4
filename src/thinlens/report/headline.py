"""Headline of a report: what was made thin, how much smaller and faster, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator

from thinlens.report.contents import ReportContents, ReportNetwork
from thinlens.report.tables import format_giga, format_integer

Figure = tuple[str, str]
"""A figure in large letters, and what it is."""


def headline(contents: ReportContents) -> tuple[str, str, list[Figure]]:
    """Return the title, a sentence on the comparison, and its key figures.

    What was not measured is not mentioned.
    """
    dense, thin = contents.dense, contents.featured
    if dense is None or thin is None:
        return contents.dense_name, contents.machine, list(contents.figures)
    sentence = f"Made thin from {contents.dense_name}. {contents.machine}".strip()
    return thin.name, sentence, list(_key_figures(dense, thin))


def _key_figures(dense: ReportNetwork, thin: ReportNetwork) -> Iterator[Figure]:
    if dense.bytes and thin.bytes:
        factor = dense.bytes / thin.bytes
        sizes = f"{format_integer(thin.bytes)} of {format_integer(dense.bytes)} bytes"
        yield f"{factor:.1f} x smaller", sizes
    if dense.macs and thin.macs:
        macs = f"{format_giga(thin.macs)} of {format_giga(dense.macs)} billion multiply-adds"
        yield f"{thin.macs / dense.macs:.0%} of the work", macs
    if dense.ms and thin.ms:
        faster = dense.ms >= thin.ms
        factor = dense.ms / thin.ms if faster else thin.ms / dense.ms
        word = "faster" if faster else "slower"
        yield f"{factor:.2f} x {word}", f"{thin.ms:.1f} instead of {dense.ms:.1f} ms"
    for name in (name for name in dense.psnr if name in thin.psnr):
        change = thin.psnr[name] - dense.psnr[name]
        yield (
            f"{change:+.2f} dB",
            f"PSNR on {name}: {thin.psnr[name]:.2f} instead of {dense.psnr[name]:.2f}",
        )
