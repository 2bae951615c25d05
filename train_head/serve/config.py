"""Options of `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from base.options import moved_option, page_option, picture_option, place_option, prediction_option
from train_head.config import MAX_PIXELS


@dataclass(frozen=True)
class ServeConfig:
    """Options of `serve`."""

    model: Annotated[Path, place_option(help="Exported model: a file of any format, or the folder of an export.")]
    run: Annotated[
        Path | None, place_option(help="Folder of the model's run. The page then shows the nearest training pictures.")
    ] = None
    store: Annotated[str, moved_option(help="Feature store of the run, if it has moved.", metavar="DIR")] = ""
    images: Annotated[str, moved_option(help="Folder of the run's pictures, if it has moved.", metavar="DIR|URL")] = ""
    port: Annotated[int, page_option(min=0, max=65535, help="Port of the page; 0 chooses a free one.")] = 8000
    host: Annotated[str, page_option(help="Address to listen on. All but loopback need --allow-network.")] = "127.0.0.1"
    allow_network: Annotated[
        bool,
        page_option("--allow-network", help="Let other computers open the page, without a password or encryption."),
    ] = False
    open: Annotated[bool, page_option("--open", help="Open the page in the browser.")] = False
    max_pixels: Annotated[
        int, picture_option(min=1, help="Largest number of pixels in a picture. A larger one is not decoded.")
    ] = MAX_PIXELS
    unsure: Annotated[
        float,
        prediction_option(
            min=0, max=1, help="Margin below which a picture is unsure, as in predict.", metavar="MARGIN"
        ),
    ] = 0.2
    max_upload: Annotated[int, page_option(min=1, max=1024, help="Largest size of a request, in MB.")] = 32
