"""Options of `suggest`, shared by the command line and the Python API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument

from base.options import picture_option, place_option, prediction_option, speed_option
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
    out: Annotated[Path, place_option(help="Folder for suggestions.csv and suggestions.html.")]
    count: Annotated[int, prediction_option(min=1, help="Largest number of pictures to suggest.")] = 50
    skip_outliers: Annotated[
        bool,
        prediction_option("--skip-outliers", help="Leave out pictures that the model classifies as none of these."),
    ] = False
    batch_size: Annotated[
        int, speed_option(min=0, help="Number of pictures in a batch. 0 means 32 at 150 px, fewer at larger sizes.")
    ] = 0
    max_pixels: Annotated[
        int, picture_option(min=1, help="Largest number of pixels in a picture. A larger one is not decoded.")
    ] = MAX_PIXELS
