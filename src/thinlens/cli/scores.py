"""How are the figures of a folder of test images written for people?"""

from __future__ import annotations

from thinlens.report.tables import Table
from thinlens.restoration.evaluation import Evaluation


def scores(found: Evaluation) -> Table:
    """Return a line an image, and their means: at each noise level, if there are several, and of
    all."""
    levels = [
        (f"mean at sigma {at['sigma']:g}", at["psnr"], at["ssim"]) for at in found.per_sigma()
    ]
    images = [
        (x.name if x.sigma is None else f"{x.name} at {x.sigma:g}", x.psnr, x.ssim)
        for x in found.per_image
    ]
    rows = [*images, *levels, (f"mean of {found.images}", found.psnr, found.ssim)]
    return Table(("image", "PSNR", "SSIM"), [(name, *_figures(*both)) for name, *both in rows])


def _figures(psnr: float | None, ssim: float) -> tuple[str, str]:
    return "inf" if psnr is None else f"{psnr:.2f}", f"{ssim:.4f}"


def protocol_of(found: Evaluation) -> str:
    """Say by which protocol images were judged."""
    by = found.protocol
    return (
        f"dB and SSIM of {by.channel}, border of {by.crop} pixels cut, rounded to "
        f"{by.rounding}, range 0..{by.range}"
    )
