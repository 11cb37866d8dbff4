"""How are the figures of a folder of test images written for people?"""

from __future__ import annotations

from thinlens.report.tables import Table
from thinlens.restoration.evaluation import Evaluation


def scores(found: Evaluation) -> Table:
    """Return a line an image, and their mean."""
    return Table(
        ("image", "PSNR", "SSIM"),
        [(x.name, f"{x.psnr:.2f}", f"{x.ssim:.4f}") for x in found.per_image]
        + [(f"mean of {found.images}", f"{found.psnr:.2f}", f"{found.ssim:.4f}")],
    )


def protocol_of(found: Evaluation) -> str:
    """Say by which protocol images were judged."""
    by = found.protocol
    return (
        f"dB and SSIM of {by.channel}, border of {by.crop} pixels cut, rounded to "
        f"{by.rounding}, range 0..{by.range}"
    )
