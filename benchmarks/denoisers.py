"""Training images of the shipped denoisers, and their decibels and seconds beside other methods.

    python benchmarks/denoisers.py clean --photos DIR --out CLEAN
    python benchmarks/denoisers.py continue CHECKPOINT --recipe FILE --data CLEAN --out RUN
    python benchmarks/denoisers.py compare NETWORK... --test DIR [--images 10] [--megapixels 3]

`clean` reduces the photographs that may train weights for everyone (CC BY 4.0 and CC0), so that
their own noise and compression vanish. `continue` trains a pruned network further under its masks,
by a recipe of `thinlens train`; the same command again resumes. `compare` prints PSNR (RGB, 8 bit)
with Gaussian noise, with noise of cameras and after JPEG compression, beside scikit-image's
denoisers, which get the noise level, and the CPU seconds of the engine for a megapixel.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import thinlens
from thinlens.api import load_checkpoint
from thinlens.experiments.recipe import read_recipe
from thinlens.images.jpeg_artefacts import jpeg_compressed
from thinlens.images.reading import read_image
from thinlens.restoration.tiled import restore_image
from thinlens.tasks import make_task
from thinlens.tasks.camera_noise import add_camera_noise
from thinlens.tasks.denoising import add_gaussian_noise
from thinlens.tasks.folders import training_crops

FREE = (
    *("aitzgorri", "friends", "life", "picosdeeuropa", "sunset", "Picture_0B", "Picture_1A"),
    *("umang", "Wine", "seeding"),
)
"""Beginnings of the names of the photographs under CC BY 4.0 and CC0 1.0."""

REDUCTIONS = (2, 3, 4, 6)
"""Factors by which photographs are reduced."""

SMALLEST_SIDE = 128

SIGMAS = (15, 25, 50)
PHOTONS = (50, 200)
QUALITIES = (10, 20, 40)

Degradation = Callable[[Tensor, int], Tensor]
Denoiser = Callable[[Tensor, float], Tensor]


def write_clean(photographs: Path, out: Path) -> None:
    """Write every free photograph, reduced by every factor, as PNG."""
    out.mkdir(parents=True, exist_ok=True)
    for name in FREE:
        (path,) = photographs.glob(f"{name}_by*.jpg")
        image = Image.open(path).convert("RGB")
        for factor in REDUCTIONS:
            size = (image.width // factor, image.height // factor)
            if min(size) >= SMALLEST_SIDE:
                reduced = image.resize(size, Image.Resampling.LANCZOS)
                reduced.save(out / f"{path.stem}-{factor}.png", compress_level=1)


def train_further(checkpoint: str, recipe_file: Path, clean: Path, out: Path) -> None:
    """Train a pruned network under its masks, and save it in half precision."""
    loaded, recipe = load_checkpoint(checkpoint), read_recipe(recipe_file)
    task = make_task(**loaded.task)
    crops = training_crops(task, clean, **recipe.crops)
    thinlens.train(loaded, crops, settings=recipe.training, state=out)
    print(f"{out}: {thinlens.save(out, loaded, store='fp16')} bytes")


def degradations() -> dict[str, tuple[Degradation, float]]:
    """Return, by name, what degrades an image, and its noise level on the 0..1 range."""

    def seeded(seed: int) -> np.random.Generator:
        return np.random.default_rng([0, seed])

    table: dict[str, tuple[Degradation, float]] = {}
    for sigma in SIGMAS:
        table[f"sigma {sigma}"] = (
            lambda x, i, sigma=sigma: add_gaussian_noise(x, sigma, seeded(i)),
            sigma / 255,
        )
    for photons in PHOTONS:
        table[f"{photons} photons"] = (
            lambda x, i, photons=photons: add_camera_noise(x, photons, 1, seeded(i)),
            math.nan,
        )
    for quality in QUALITIES:
        table[f"JPEG {quality}"] = (
            lambda x, i, quality=quality: jpeg_compressed(x, quality, subsampled=True),
            math.nan,
        )
    return table


def library_denoisers() -> dict[str, Denoiser]:
    """Return scikit-image's denoisers, by its documentation; they need PyWavelets."""
    from skimage import restoration

    def on_arrays(function: Callable[..., np.ndarray]) -> Denoiser:
        def denoise(image: Tensor, sigma: float) -> Tensor:
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy().astype(np.float64))
            level = restoration.estimate_sigma(pixels, channel_axis=-1, average_sigmas=True)
            result = function(pixels, level if math.isnan(sigma) else sigma)
            return torch.from_numpy(result).permute(2, 0, 1).float()

        return denoise

    def means(image: np.ndarray, sigma: float) -> np.ndarray:
        patches = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
        return restoration.denoise_nl_means(
            image, h=0.6 * sigma, sigma=sigma, channel_axis=-1, **patches
        )

    def wavelet(image: np.ndarray, sigma: float) -> np.ndarray:
        options = {"convert2ycbcr": True, "method": "BayesShrink", "rescale_sigma": True}
        # without a copy in [0, 1] it would stretch the colours
        return restoration.denoise_wavelet(
            image.clip(0, 1), sigma=sigma, channel_axis=-1, **options
        )

    def total_variation(image: np.ndarray, sigma: float) -> np.ndarray:
        return restoration.denoise_tv_chambolle(image, weight=1.2 * sigma, channel_axis=-1)

    return {
        "non-local means": on_arrays(means),
        "wavelets": on_arrays(wavelet),
        "total variation": on_arrays(total_variation),
    }


def psnr(result: Tensor, clean: Tensor) -> float:
    """Return the PSNR of 8-bit values."""
    error = (255 * result.clamp(0, 1)).round() - (255 * clean).round()
    return float(10 * torch.log10(255**2 / error.double().square().mean()))


def network(name: str) -> Denoiser:
    """Return a checkpoint's network in the engine, as a denoiser that takes no noise level."""
    running = thinlens.compile(load_checkpoint(name), threads=1)
    return lambda image, sigma: restore_image(running, image)


def compare(denoisers: dict[str, Denoiser], folder: Path, count: int) -> None:
    """Print the mean PSNR of every denoiser for every degradation."""
    paths = sorted(folder.glob("*.png"))[:count]
    images = [read_image(path, channels=3).float() / 255 for path in paths]
    table = degradations()
    print(f"{len(images)} images of {folder.name}")
    print("| | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
    for name, denoise in {"input": lambda image, sigma: image, **denoisers}.items():
        row = []
        for degrade, sigma in table.values():
            results = [
                psnr(denoise(degrade(clean, index), sigma), clean)
                for index, clean in enumerate(images)
            ]
            row.append(f"{np.mean(results):.2f}")
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


def seconds_per_megapixel(name: str, megapixels: float) -> float:
    """Return the CPU seconds of the engine for a megapixel of noise, at its second run."""
    width = round(math.sqrt(1e6 * megapixels * 3 / 2))
    image = torch.rand(3, 2 * width // 3, width)
    running, seconds = thinlens.compile(load_checkpoint(name), threads=1), 0.0
    for _ in range(2):
        start = time.process_time()
        restore_image(running, image)
        seconds = time.process_time() - start
    return seconds / (image[0].numel() / 1e6)


def main() -> None:
    """Write the training images, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    clean = verbs.add_parser("clean")
    clean.add_argument("--photos", type=Path, required=True)
    clean.add_argument("--out", type=Path, required=True)
    further = verbs.add_parser("continue")
    further.add_argument("checkpoint")
    further.add_argument("--recipe", type=Path, required=True)
    further.add_argument("--data", type=Path, required=True)
    further.add_argument("--out", type=Path, required=True)
    comparison = verbs.add_parser("compare")
    comparison.add_argument("networks", nargs="*")
    comparison.add_argument("--test", type=Path, required=True)
    comparison.add_argument("--images", type=int, default=10)
    comparison.add_argument("--megapixels", type=float, default=3)
    comparison.add_argument("--without-libraries", action="store_true")
    options = parser.parse_args()
    if options.verb == "clean":
        write_clean(options.photos, options.out)
        return
    if options.verb == "continue":
        train_further(options.checkpoint, options.recipe, options.data, options.out)
        return
    torch.set_num_threads(1)
    others = {} if options.without_libraries else library_denoisers()
    denoisers = {name: network(name) for name in options.networks}
    compare({**others, **denoisers}, options.test, options.images)
    for name in options.networks if options.megapixels else ():
        seconds = seconds_per_megapixel(name, options.megapixels)
        print(
            f"{name}: {seconds:.2f} CPU seconds a megapixel, 24 megapixels on two cores "
            f"{seconds * 12:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
