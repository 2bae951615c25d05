"""Options of `extract`, for the command line and the Python API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from typer import Option

from base.cluster import LOCAL
from base.errors import UsageError
from base.options import feature_option, picture_option, place_option, speed_option
from base.urls import Location
from features.options import Compression, Pool, split_cuts
from features.parts import Parts
from features.presets import PRESETS, PresetName

MAX_PIXELS = 89_000_000
"""Default limit on the pixels of a picture, the same as in Pillow; 0.25 GB decoded."""


class EngineName(StrEnum):
    """Library that runs the backbone; `AUTO` is replaced before the backbone is built."""

    AUTO = "auto"
    TENSORFLOW = "tensorflow"
    OPENVINO = "openvino"


class SampleBits(StrEnum):
    """Significant bits of 16-bit samples."""

    AUTO = "auto"
    EIGHT = "8"
    TEN = "10"
    TWELVE = "12"
    FOURTEEN = "14"
    SIXTEEN = "16"


class Precision(StrEnum):
    """Precision of the backbone's computation; features are always stored as float16.

    `AUTO` is replaced before the backbone is built.
    """

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


@dataclass(frozen=True)
class ExtractConfig:
    """Options of `extract`."""

    images: Annotated[
        Location,
        place_option(
            help="Folder of pictures: one folder for each class, at the top or in train/ and validation/. Also an "
            "archive (.zip, .tar), shards (`shards-{000..063}.tar`), or a URL of one of them.",
            metavar="DIR|FILE|URL",
        ),
    ]
    store: Annotated[Path, place_option(help="Folder of the feature store. It is created or updated.")]
    preset: Annotated[
        PresetName,
        feature_option(
            help="Set several options at once: accurate for the best accuracy, small for a small model, course for the "
            "defaults. Options that are given as well keep their values."
        ),
    ] = PresetName.COURSE
    labels: Annotated[
        Location | None,
        picture_option(
            help="Table with the label of each picture (CSV, TSV or Parquet), instead of class folders.",
            metavar="FILE|URL",
        ),
    ] = None
    columns: Annotated[
        str,
        picture_option(
            help="Names or positions of the table's columns, if they are not found, such as path=id,label=breed. "
            "Keys: path, label, split, separator.",
            metavar="KEY=COLUMN,…",
        ),
    ] = ""
    classes: Annotated[
        str,
        picture_option(help="Classes to use, separated by commas. Others are left out and listed.", metavar="CLASS,…"),
    ] = ""
    min_pictures: Annotated[
        int,
        picture_option(
            min=0, help="Leave out classes with fewer training pictures. With 0, a class with too few is an error."
        ),
    ] = 0
    weights: Annotated[
        str,
        feature_option(
            help="Weights of the backbone: auto, imagenet, nsfwjs, random, or a weights file.", metavar="NAME|FILE|URL"
        ),
    ] = "auto"
    weights_sha256: Annotated[str, feature_option(help="Expected SHA-256 of the weights file.", metavar="DIGEST")] = ""
    cut: Annotated[
        str,
        feature_option(help="Layer whose output is stored, or several layers separated by commas.", metavar="LAYER,…"),
    ] = "mixed7"
    image_size: Annotated[int, feature_option(help="Height and width to which pictures are resized, in pixels.")] = 150
    pool: Annotated[
        Pool,
        feature_option(help="avg stores the mean of each channel (768 numbers at mixed7) instead of the whole output."),
    ] = Pool.NONE
    views: Annotated[
        int,
        feature_option(
            min=1, help="Number of views of each training picture: the picture itself, then random augmentations."
        ),
    ] = 1
    view_seed: Annotated[int, feature_option(min=0, help="Random seed of the augmentations.")] = 0
    engine: Annotated[
        EngineName,
        speed_option(
            help="Library that runs the backbone. auto keeps that of the store; a new store gets openvino for int8, "
            "and tensorflow otherwise. openvino needs the package extra openvino."
        ),
    ] = EngineName.AUTO
    precision: Annotated[
        Precision,
        speed_option(
            help="bfloat16 is about twice as fast on processors that support it; features differ by 2 %. int8 is about "
            "three times as fast; features differ by 10 %, and it needs the package extra int8. auto keeps that of the "
            "store; a new store gets bfloat16 if the processor supports it, and float32 otherwise."
        ),
    ] = Precision.FLOAT32
    calibration: Annotated[
        Path | None,
        speed_option(
            help="For int8: a store whose quantised backbone is used, instead of quantising it on the pictures of this "
            "folder. Parts need the same one.",
            metavar="STORE",
        ),
    ] = None
    batch_size: Annotated[
        int,
        speed_option(min=0, help="Pictures in one batch of the backbone. 0 means 32 at 150 px, fewer at larger sizes."),
    ] = 0
    threads: Annotated[int, speed_option(min=0, help="Processor cores to use. 0 means all available cores.")] = 0
    distribute: Annotated[
        str,
        speed_option(
            help="Where to compute: local is this process; ray starts a worker on each core of this computer; auto or "
            "an address such as ray://HOST:10001 uses the workers of a Ray cluster. --threads is then the number of "
            "cores of a worker, 1 by default. Needs the package extra ray.",
            metavar="local|ray|ADDRESS",
        ),
    ] = LOCAL
    compression: Annotated[Compression, speed_option(help="Compression of features on disk.")] = Compression.GZIP
    max_pixels: Annotated[
        int, picture_option(min=1, help="Largest number of pixels of a picture. Larger pictures are not decoded.")
    ] = MAX_PIXELS
    sample_bits: Annotated[
        SampleBits,
        picture_option(
            help="Significant bits by which 16-bit samples are scaled. auto finds the fewest that hold all samples of "
            "the folder."
        ),
    ] = SampleBits.AUTO
    part: Annotated[
        str,
        picture_option(
            help="Extract one of several equal parts of the folder, such as 3/16, into its own --store; `headstart "
            "features merge` merges the stores. Parts can run at the same time, on several machines.",
            metavar="K/N",
        ),
    ] = ""
    max_bad: Annotated[
        float,
        picture_option(
            min=0.0, max=1.0, help="Largest accepted share of unusable pictures, rounded up to whole pictures."
        ),
    ] = 0.01
    strict: Annotated[
        bool, picture_option("--strict", help="Stop at the first unusable picture, like --max-bad 0.")
    ] = False
    rehash: Annotated[
        bool,
        picture_option("--rehash", help="Read every file again, even if its size and modification time are unchanged."),
    ] = False
    new_store: Annotated[
        bool,
        place_option(
            "--new-store", help="Start a new store. An existing one is kept, with the date added to its name."
        ),
    ] = False
    dry_run: Annotated[
        bool,
        place_option(
            "--dry-run", help="Print the number of pictures, the time and the size on disk, and write nothing."
        ),
    ] = False

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {name: preset.extract for name, preset in PRESETS.items()}

    @property
    def cuts(self) -> list[str]:
        """Names of the cut layers, in the given order."""
        return split_cuts(self.cut)

    def count_bad_allowed(self, num_images: int) -> int:
        """Return the number of pictures that may be unusable in a folder of `num_images`."""
        return 0 if self.strict else math.ceil(round(self.max_bad * num_images, 6))

    @property
    def effective_batch_size(self) -> int:
        """Number of pictures in a batch; by default, a batch needs about the same memory at any image size."""
        return choose_batch_size(self.batch_size, self.image_size)


def choose_batch_size(requested: int, image_size: int) -> int:
    """Return the number of pictures in a batch; for 0, a batch needs about the same memory at any image size."""
    return requested or max(1, min(32, 32 * 150**2 // image_size**2))


def parse_part(text: str) -> Parts | None:
    """Return the part that `--part` names, such as `3/16`; None for an empty text, the whole folder.

    Raises:
        UsageError: the text is something else.
    """
    if not text:
        return None
    try:
        part = Parts.parse(text)
    except ValueError:
        part = None
    if part is None or len(part.numbers) != 1:
        expected = "the number of a part and the number of parts, such as 1/16 or 16/16"
        raise UsageError("--part", expected, repr(text), "Number the parts from 1")
    return part


@dataclass(frozen=True)
class SummaryConfig:
    """Options of `extract summary`."""

    cut: Annotated[str, Option(help="Layer to mark as the cut.")] = "mixed7"
    image_size: Annotated[int, Option(help="Height and width of the input, in pixels.")] = 150
