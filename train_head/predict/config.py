"""Options of `predict`, shared by the command line and the Python API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from base.options import OptionTopic
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
    model: Annotated[
        Path,
        Option(
            help="Exported model: a file of any format, or the folder of an export.", rich_help_panel=OptionTopic.PLACES
        ),
    ]
    batch_size: Annotated[
        int,
        Option(
            min=0,
            help="Number of pictures in a batch. 0 means 32 at 150 px, fewer at larger sizes.",
            rich_help_panel=OptionTopic.SPEED,
        ),
    ] = 0
    max_pixels: Annotated[
        int,
        Option(
            min=1,
            help="Largest number of pixels in a picture. A larger one is not decoded.",
            rich_help_panel=OptionTopic.PICTURES,
        ),
    ] = MAX_PIXELS
    top: Annotated[
        int,
        Option(min=1, help="Number of classes of each picture in the table.", rich_help_panel=OptionTopic.PREDICTIONS),
    ] = 3
    unsure: Annotated[
        float,
        Option(
            min=0,
            max=1,
            help="Margin below which a picture is unsure: the difference of the two highest probabilities or, if "
            "pictures have several labels, the smallest difference of a probability and its threshold.",
            metavar="MARGIN",
            rich_help_panel=OptionTopic.PREDICTIONS,
        ),
    ] = 0.0
    least_sure_first: Annotated[
        bool,
        Option(
            "--least-sure-first",
            help="Sort by the margin, the smallest first.",
            rich_help_panel=OptionTopic.PREDICTIONS,
        ),
    ] = False
    output_format: Annotated[
        RowFormat | None,
        Option(
            help="A table, or lines of CSV or JSON with the probability of every class. By default a table, or the "
            "format that the extension of --out names.",
            rich_help_panel=OptionTopic.PLACES,
        ),
    ] = None
    out: Annotated[
        str,
        Option(
            help="File for the predictions, .csv or .jsonl, instead of standard output.",
            metavar="FILE",
            rich_help_panel=OptionTopic.PLACES,
        ),
    ] = ""
    sort_into: Annotated[
        str,
        Option(
            help="Folder to fill with links to the pictures, in a folder for each class.",
            metavar="DIR",
            rich_help_panel=OptionTopic.PLACES,
        ),
    ] = ""
