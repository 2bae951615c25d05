"""Options of `suggest`, shared by the command line and the Python API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from base.options import OptionTopic
from base.urls import Location
from train_head.config import MAX_PIXELS


@dataclass(frozen=True)
class SuggestConfig:
    """Options of `suggest`."""

    model: Annotated[
        Path, Argument(help="Exported model: a file of any format, or the folder of the export.", metavar="MODEL")
    ]
    files: Annotated[
        list[Location],
        Argument(help="Unlabelled pictures, folders or archives of pictures, or URLs of them.", metavar="FILE_OR_DIR"),
    ]
    out: Annotated[
        Path, Option(help="Folder for suggestions.csv and suggestions.html.", rich_help_panel=OptionTopic.PLACES)
    ]
    count: Annotated[
        int, Option(min=1, help="Largest number of pictures to suggest.", rich_help_panel=OptionTopic.PREDICTIONS)
    ] = 50
    skip_outliers: Annotated[
        bool,
        Option(
            "--skip-outliers",
            help="Leave out pictures that the model classifies as none of these.",
            rich_help_panel=OptionTopic.PREDICTIONS,
        ),
    ] = False
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
