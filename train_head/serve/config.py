"""Options of `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from base.options import OptionTopic
from train_head.config import MAX_PIXELS


@dataclass(frozen=True)
class ServeConfig:
    """Options of `serve`."""

    model: Annotated[
        Path,
        Option(
            help="Exported model: a file of any format, or the folder of an export.", rich_help_panel=OptionTopic.PLACES
        ),
    ]
    run: Annotated[
        Path | None,
        Option(
            help="Folder of the model's run. The page then shows the nearest training pictures.",
            rich_help_panel=OptionTopic.PLACES,
        ),
    ] = None
    store: Annotated[
        str, Option(help="Feature store of the run, if it has moved.", metavar="DIR", rich_help_panel=OptionTopic.MOVED)
    ] = ""
    images: Annotated[
        str,
        Option(
            help="Folder of the run's pictures, if it has moved.", metavar="DIR|URL", rich_help_panel=OptionTopic.MOVED
        ),
    ] = ""
    port: Annotated[
        int, Option(min=0, max=65535, help="Port of the page; 0 chooses a free one.", rich_help_panel=OptionTopic.PAGE)
    ] = 8000
    host: Annotated[
        str,
        Option(help="Address to listen on. All but loopback need --allow-network.", rich_help_panel=OptionTopic.PAGE),
    ] = "127.0.0.1"
    allow_network: Annotated[
        bool,
        Option(
            "--allow-network",
            help="Let other computers open the page, without a password or encryption.",
            rich_help_panel=OptionTopic.PAGE,
        ),
    ] = False
    open: Annotated[bool, Option("--open", help="Open the page in the browser.", rich_help_panel=OptionTopic.PAGE)] = (
        False
    )
    max_pixels: Annotated[
        int,
        Option(
            min=1,
            help="Largest number of pixels in a picture. A larger one is not decoded.",
            rich_help_panel=OptionTopic.PICTURES,
        ),
    ] = MAX_PIXELS
    unsure: Annotated[
        float,
        Option(
            min=0,
            max=1,
            help="Margin below which a picture is unsure, as in predict.",
            metavar="MARGIN",
            rich_help_panel=OptionTopic.PREDICTIONS,
        ),
    ] = 0.2
    max_upload: Annotated[
        int, Option(min=1, max=1024, help="Largest size of a request, in MB.", rich_help_panel=OptionTopic.PAGE)
    ] = 32
