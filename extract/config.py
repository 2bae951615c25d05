"""The options of stage one; the command line is made from this."""

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
"""As Pillow has it: a quarter of a gigabyte, decoded."""


class EngineName(StrEnum):
    """What runs the backbone."""

    TENSORFLOW = "tensorflow"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """In what the backbone computes; features are float16 either way."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class ExtractConfig:
    """What to extract, from where, to where."""

    images: Annotated[Path, Option(help="Folder of class folders, or of train/ and validation/ with them.")]
    store: Annotated[Path, Option(help="Folder of the feature store; made, or gone on with.")]
    weights: Annotated[str, Option(help="auto, imagenet, nsfwjs, random, or a weights file.", metavar="NAME|FILE")] = (
        "auto"
    )
    weights_sha256: Annotated[str, Option(help="What the weights file's SHA-256 has to be.", metavar="DIGEST")] = ""
    cut: Annotated[
        str, Option(help="Layer whose output is stored; several, as in mixed5,mixed7, in one pass.", metavar="LAYER,…")
    ] = "mixed7"
    image_size: Annotated[int, Option(help="Side of the square that pictures are resized to, in pixels.")] = 150
    pool: Annotated[Pool, Option(help="avg stores each channel's mean: 768 numbers a picture, less to learn from.")] = (
        Pool.NONE
    )
    views: Annotated[
        int, Option(min=1, help="Of each training picture: itself, and as many less one seeded augmentations.")
    ] = 1
    view_seed: Annotated[int, Option(min=0, help="Of the augmentations: same seed, same views.")] = 0
    engine: Annotated[EngineName, Option(help="What runs the backbone; openvino needs an extra.")] = (
        EngineName.TENSORFLOW
    )
    precision: Annotated[
        Precision, Option(help="bfloat16 is about twice as fast where the processor has it; features differ by 2 %.")
    ] = Precision.FLOAT32
    batch_size: Annotated[
        int, Option(min=0, help="Pictures that the backbone sees at once; 0: 32 of 150 px, fewer of larger ones.")
    ] = 0
    threads: Annotated[int, Option(min=0, help="Cores to use; 0: all that this process may use.")] = 0
    compression: Annotated[Compression, Option(help="Of features on disk; zstd reads faster, needs an extra.")] = (
        Compression.GZIP
    )
    max_pixels: Annotated[int, Option(min=1, help="A picture that declares more is not decoded.")] = MAX_PIXELS
    max_bad: Annotated[
        float, Option(min=0.0, max=1.0, help="Share of the pictures, rounded up, that may be bad before the run stops.")
    ] = 0.01
    strict: Annotated[bool, Option("--strict", help="Stop at the first bad picture, as --max-bad 0 does.")] = False
    rehash: Annotated[
        bool, Option("--rehash", help="Read every file again instead of trusting size and modification time.")
    ] = False
    new_store: Annotated[
        bool, Option("--new-store", help="Start a new store; one that is there is kept beside it, with the date.")
    ] = False
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be done, and do nothing.")] = False

    @property
    def cuts(self) -> list[str]:
        """The cut layers, in the order given."""
        return [cut.strip() for cut in self.cut.split(",")]

    def count_bad_allowed(self, num_images: int) -> int:
        """Says how many of a folder's pictures may be bad."""
        return 0 if self.strict else math.ceil(round(self.max_bad * num_images, 6))

    @property
    def num_at_once(self) -> int:
        """How many pictures a batch has: memory stays as it is for any size, and speed is the same from 8 on."""
        return self.batch_size or max(1, min(32, 32 * 150**2 // self.image_size**2))


@dataclass(frozen=True)
class SummaryConfig:
    """What of the architecture to show."""

    cut: Annotated[str, Option(help="Layer whose output would be stored.")] = "mixed7"
    image_size: Annotated[int, Option(help="Side of the square input, in pixels.")] = 150
