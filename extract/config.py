"""Options of extraction, for the command line and the Python API."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from features.schema import Pool
from features.shards.compression import Compression

MAX_PIXELS = 89_000_000
"""Default limit of a picture's size, as Pillow sets it: 0.25 GB decoded."""


class EngineName(StrEnum):
    """Library that runs the backbone."""

    TENSORFLOW = "tensorflow"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """Precision that the backbone computes in; features are stored as float16 either way."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class ExtractConfig:
    """Options of `extract`."""

    images: Annotated[
        Path,
        Option(
            help="Folder with one folder of pictures for each class, or with train/ and validation/ of such folders."
        ),
    ]
    store: Annotated[Path, Option(help="Folder of the feature store. It is created, or brought up to date.")]
    weights: Annotated[
        str,
        Option(help="Weights of the backbone: auto, imagenet, nsfwjs, random, or a weights file.", metavar="NAME|FILE"),
    ] = "auto"
    weights_sha256: Annotated[str, Option(help="Expected SHA-256 of the weights file.", metavar="DIGEST")] = ""
    cut: Annotated[
        str,
        Option(help="Layer whose output is stored. Several, such as mixed5,mixed7, take one pass.", metavar="LAYER,…"),
    ] = "mixed7"
    image_size: Annotated[int, Option(help="Side of the square that pictures are resized to, in pixels.")] = 150
    pool: Annotated[
        Pool,
        Option(
            help="avg stores the mean of each channel, 768 numbers a picture at mixed7, instead of the whole output."
        ),
    ] = Pool.NONE
    views: Annotated[
        int,
        Option(min=1, help="Versions stored of each training picture: the picture itself and random augmentations."),
    ] = 1
    view_seed: Annotated[int, Option(min=0, help="Random seed of the augmentations.")] = 0
    engine: Annotated[
        EngineName, Option(help="Library that runs the backbone. openvino needs the extra of that name.")
    ] = EngineName.TENSORFLOW
    precision: Annotated[
        Precision, Option(help="bfloat16 is about twice as fast on processors that support it; features differ by 2 %.")
    ] = Precision.FLOAT32
    batch_size: Annotated[
        int, Option(min=0, help="Pictures in one batch of the backbone. 0 means 32 at 150 px, fewer of larger ones.")
    ] = 0
    threads: Annotated[int, Option(min=0, help="Processor cores to use. 0 means all that are available.")] = 0
    compression: Annotated[
        Compression, Option(help="Compression of features on disk. zstd reads faster and needs the extra of that name.")
    ] = Compression.GZIP
    max_pixels: Annotated[int, Option(min=1, help="Pictures with more pixels are refused without decoding.")] = (
        MAX_PIXELS
    )
    max_bad: Annotated[
        float,
        Option(
            min=0.0, max=1.0, help="Share of the pictures, rounded up, that may be unreadable before extraction stops."
        ),
    ] = 0.01
    strict: Annotated[bool, Option("--strict", help="Stop at the first unreadable picture, like --max-bad 0.")] = False
    rehash: Annotated[
        bool, Option("--rehash", help="Read every file again, even if its size and modification time are unchanged.")
    ] = False
    new_store: Annotated[
        bool, Option("--new-store", help="Start a new store. An existing one is renamed with its date and kept.")
    ] = False
    dry_run: Annotated[bool, Option("--dry-run", help="Print what would be done, and do nothing.")] = False

    @property
    def cuts(self) -> list[str]:
        """Cut layers in the given order."""
        return [cut.strip() for cut in self.cut.split(",")]

    def count_bad_allowed(self, num_images: int) -> int:
        """Return how many of a folder's pictures may be unreadable."""
        return 0 if self.strict else math.ceil(round(self.max_bad * num_images, 6))

    @property
    def effective_batch_size(self) -> int:
        """Number of pictures a batch: memory stays the same for any image size, and speed from 8 on."""
        return self.batch_size or max(1, min(32, 32 * 150**2 // self.image_size**2))


@dataclass(frozen=True)
class SummaryConfig:
    """Options of `extract summary`."""

    cut: Annotated[str, Option(help="Layer whose output would be stored.")] = "mixed7"
    image_size: Annotated[int, Option(help="Side of the square input, in pixels.")] = 150
