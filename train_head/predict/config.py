"""Options of `predict`, shared by the command line and the Python API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument

from base.options import picture_option, place_option, prediction_option, speed_option
from base.urls import Location
from train_head.config import MAX_PIXELS


class RowFormat(StrEnum):
    """Format of the predictions that `predict` prints or writes."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True)
class PredictConfig:
    """Options of `predict`."""

    files: Annotated[
        list[Location],
        Argument(help="Pictures, folders or archives of pictures, or URLs of them.", metavar="FILE_OR_DIR"),
    ]
    model: Annotated[Path, place_option(help="Exported model: a file of any format, or the folder of an export.")]
    batch_size: Annotated[
        int, speed_option(min=0, help="Number of pictures in a batch. 0 means 32 at 150 px, fewer at larger sizes.")
    ] = 0
    max_pixels: Annotated[
        int, picture_option(min=1, help="Largest number of pixels in a picture. A larger one is not decoded.")
    ] = MAX_PIXELS
    top: Annotated[int, prediction_option(min=1, help="Number of classes of each picture in the table.")] = 3
    unsure: Annotated[
        float,
        prediction_option(
            min=0,
            max=1,
            help="Margin below which a picture is unsure: the difference of the two highest probabilities or, if "
            "pictures have several labels, the smallest difference of a probability and its threshold.",
            metavar="MARGIN",
        ),
    ] = 0.0
    least_sure_first: Annotated[
        bool, prediction_option("--least-sure-first", help="Sort by the margin, the smallest first.")
    ] = False
    output_format: Annotated[
        RowFormat | None,
        place_option(
            help="A table, or lines of CSV or JSON with the probability of every class. By default a table, or the "
            "format that the extension of --out names."
        ),
    ] = None
    out: Annotated[
        str, place_option(help="File for the predictions, .csv or .jsonl, instead of standard output.", metavar="FILE")
    ] = ""
    sort_into: Annotated[
        str, place_option(help="Folder to fill with links to the pictures, in a folder for each class.", metavar="DIR")
    ] = ""
