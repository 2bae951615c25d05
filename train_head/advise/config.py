"""Options of `advise`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from base.options import feature_option, picture_option, place_option, speed_option
from base.urls import Location


@dataclass(frozen=True)
class AdviseConfig:
    """Options of `advise`."""

    store: Annotated[
        Path | None,
        place_option(
            help="Feature store: compare the heads that its features allow, without extraction.", metavar="DIR"
        ),
    ] = None
    images: Annotated[
        Location | None,
        place_option(
            help="Folder of pictures: extract a sample of its training pictures at 150 and at 299 px, and compare.",
            metavar="DIR",
        ),
    ] = None
    out: Annotated[
        Path | None,
        place_option(
            help="Folder that keeps the features of the sample for the next call.",
            metavar="DIR",
            show_default="a temporary folder",
        ),
    ] = None
    pictures: Annotated[
        int, picture_option(min=20, help="Largest number of pictures in the sample; at most 200 a class.")
    ] = 600
    seed: Annotated[
        int, picture_option(min=0, max=2**32 - 1, help="Random seed of the sample and of the intervals.")
    ] = 0
    labels: Annotated[
        Location | None,
        picture_option(help="Table with the label of each picture, as in extraction.", metavar="FILE|URL"),
    ] = None
    columns: Annotated[str, picture_option(help="Columns of the table, as in extraction.", metavar="KEY=COLUMN,…")] = ""
    classes: Annotated[str, picture_option(help="Classes to use, as in extraction.", metavar="CLASS,…")] = ""
    min_pictures: Annotated[int, picture_option(min=0, help="Leave out classes with fewer training pictures.")] = 0
    weights: Annotated[
        str, feature_option(help="Weights of the backbone for the sample, as in extraction.", metavar="NAME|FILE")
    ] = "auto"
    threads: Annotated[
        int, speed_option(min=0, help="Processor cores for the sample. 0 means all available cores.")
    ] = 0
