"""The options of stage one; the command line is made from this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from features.compression import Compression


@dataclass(frozen=True)
class ExtractConfig:
    """What to extract, from where, to where."""

    images: Annotated[Path, Option(help="Folder of class folders, or of train/ and validation/ with them.")]
    store: Annotated[Path, Option(help="Folder of the feature store; made, or gone on with.")]
    weights: Annotated[str, Option(help="auto, imagenet, nsfwjs, random, or a weights file.", metavar="NAME|FILE")] = (
        "auto"
    )
    cut: Annotated[str, Option(help="Layer whose output is stored.")] = "mixed7"
    image_size: Annotated[int, Option(help="Side of the square that pictures are resized to, in pixels.")] = 150
    batch_size: Annotated[int, Option(min=1, help="Pictures that the backbone sees at once.")] = 32
    threads: Annotated[int, Option(min=0, help="Threads that read and decode; 0: one for each core.")] = 0
    compression: Annotated[Compression, Option(help="Of features on disk; zstd reads faster, needs an extra.")] = (
        Compression.GZIP
    )
    strict: Annotated[bool, Option("--strict", help="Stop at the first bad picture.")] = False
    rehash: Annotated[
        bool, Option("--rehash", help="Read every file again instead of trusting size and modification time.")
    ] = False
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be done, and do nothing.")] = False


@dataclass(frozen=True)
class SummaryConfig:
    """What of the architecture to show."""

    cut: Annotated[str, Option(help="Layer whose output would be stored.")] = "mixed7"
    image_size: Annotated[int, Option(help="Side of the square input, in pixels.")] = 150
