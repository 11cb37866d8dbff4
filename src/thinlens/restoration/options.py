"""Options of `restore`: tiles, what of the inputs is kept, and how results are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from thinlens.errors import UsageError, check_choice
from thinlens.images.formats import FORMATS, WRITABLE, ImageFormat, format_of
from thinlens.images.opening import MAX_PIXELS
from thinlens.images.resample import Resampling
from thinlens.restoration.memory_budget import MemoryBudget
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.result_size import ResultSize
from thinlens.restoration.shards import Shard
from thinlens.restoration.tiled import as_restorer

Compression = Literal["fast", "small"]

AlphaHandling = Literal["network", "bicubic", "flatten"]

SAME_FORMAT = "same"
"""The format that an input's name stands for, or PNG if that is not written."""

_NOT_IN_RESULTS = ("tile", "blend", "margin", "memory", "max_pixels", "picture", "shard")
"""Fields that do not change a result, or that the manifest holds elsewhere."""


@dataclass(frozen=True)
class RestoreOptions:
    """Tiles, limits of the inputs, and the files and sizes of the results of `restore_folder`."""

    tile: int | None = None
    """Longest side in pixels of the tiles that images are cut into; None: as memory allows."""
    blend: int = 0
    """Input pixels on either side of the borders of tiles over which they are blended."""
    margin: int | None = None
    """Input pixels around tiles; None: those with which tiles equal the whole image."""
    memory: str | None = None
    """Most memory of the process, such as 2G or 800M; None: half of what is free."""
    max_pixels: int = MAX_PIXELS
    """Inputs with more pixels are refused before they are decoded."""
    picture: Callable[[Path, Path], None] | None = None
    """Draws an extra picture of each image: called with the result and the picture's path."""
    format: str = "png"
    """Of the results: a name in `FORMATS` that is written, or `same`."""
    quality: int | None = None
    """Of lossy formats, 1 to 100 (None: the format's default); 100 is lossless where it can be."""
    compression: Compression = "fast"
    """Of png and tiff; `small` takes some seventy times as long for about 15 %."""
    strip: bool = False
    """Drop EXIF, XMP, IPTC, resolution and profile; colours become sRGB first."""
    alpha: AlphaHandling = "network"
    """What enlarges transparency: the network, bicubic interpolation; or images laid on white."""
    size: str | None = None
    """Of results: 3840x2160 (which they fit into), 2x, 1.5x, 50%; None: the network's scale."""
    resample: Resampling = "bicubic"
    """How results of the network's scale reach another size; lanczos works in linear light."""
    strength: float = 1.0
    """Weight of the network's result; the rest is the input, enlarged by bicubic interpolation."""
    first_frame: bool = False
    """Restore the first image of animations and of files with several pages."""
    shard: str | None = None
    """The part of a folder's images that is restored, such as 2/8 (`restoration.shards`)."""

    def __post_init__(self) -> None:
        check_choice("--format", self.format, (*WRITABLE, SAME_FORMAT))
        check_choice("--compression", self.compression, get_args(Compression))
        check_choice("--alpha", self.alpha, get_args(AlphaHandling))
        check_choice("--resample", self.resample, get_args(Resampling))
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: wanted 1 to 100")
        if self.quality is not None and self.format in ("png", "tiff"):
            raise UsageError(f"--quality {self.quality}: {self.format} is not lossy")
        if not 0 <= self.strength <= 1:
            raise UsageError(f"--strength {self.strength}: wanted 0 to 1")
        if self.result_size is not None:
            self.result_size.of(1, 1)
        MemoryBudget.parse(self.memory)
        Shard.parse(self.shard)

    @property
    def result_size(self) -> ResultSize | None:
        """What `size` stands for."""
        return None if self.size is None else ResultSize.parse(self.size)

    def restorer(self, network: Network | Restorer, channels: int) -> Restorer:
        """Return what restores images of any size with these tiles, in this memory."""
        return as_restorer(
            *(network, channels),
            tile=self.tile,
            blend=self.blend,
            margin=self.margin,
            memory=MemoryBudget.parse(self.memory),
        )

    def format_for(self, name: str) -> ImageFormat:
        """Return the format of the result of an input of this name."""
        if self.format != SAME_FORMAT:
            return FORMATS[self.format]
        own = format_of(name)
        return own if own is not None and own.encoder else FORMATS["png"]

    def suffix_for(self, name: str) -> str:
        """Return the file name ending of the result; `same` keeps the input's."""
        image_format, suffix = self.format_for(name), PurePosixPath(name).suffix
        keep = self.format == SAME_FORMAT and suffix.lower() in image_format.suffixes
        return suffix if keep else image_format.suffixes[0]

    def result_fields(self) -> str:
        """Return, as JSON, the fields that change results and differ from their defaults.

        >>> RestoreOptions(tile=64, size="2x").result_fields()
        '{"size": "2x"}'
        """
        defaults = asdict(RestoreOptions())
        changed = {
            key: value
            for key, value in asdict(self).items()
            if key not in _NOT_IN_RESULTS and value != defaults[key]
        }
        return json.dumps(changed) if changed else ""
