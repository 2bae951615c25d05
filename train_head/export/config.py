"""Options of `export`, shared by the command line and the Python API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from base.errors import UsageError
from base.options import model_option, moved_option, place_option
from train_head.config import MAX_PIXELS


class Format(StrEnum):
    """Format of an exported model."""

    KERAS = "keras"
    SAVED_MODEL = "saved_model"
    LITERT = "litert"
    ONNX = "onnx"
    OPENVINO = "openvino"
    WEB = "web"


class Dtype(StrEnum):
    """Number format of the weights in an exported model; its inputs and outputs are float32."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


def parse_count(text: str) -> int | None:
    """Parse a positive number; return None for `all`."""
    # Typer passes the default too, which is an int.
    if str(text) == "all":
        return None
    if not str(text).isdecimal() or int(text) < 1:
        raise UsageError("--check", "a positive number or all", repr(text), "Give a number of pictures")
    return int(text)


@dataclass(frozen=True)
class ExportConfig:
    """Options of `export`."""

    run: Annotated[Path, place_option(help="Folder of the run.")]
    out: Annotated[Path, place_option(help="Folder for the exported model.")]
    formats: Annotated[str, model_option(help=f"Formats, comma-separated: {', '.join(Format)}.", metavar="LIST")] = (
        Format.KERAS.value
    )
    dtype: Annotated[
        Dtype,
        model_option(help="Number format of the weights, for smaller files. keras and saved_model are always float32."),
    ] = Dtype.FLOAT32
    factored: Annotated[
        bool,
        model_option(
            "--factored",
            help="Write the head of the solver reduced as two small kernels instead of a large one, with the same "
            "outputs.",
        ),
    ] = False
    outlier_score: Annotated[
        bool,
        model_option(
            "--outlier-score",
            help="Add the output `distance` to model.keras: how far a picture is from the training pictures of the "
            "nearest class. The other formats have it without this option.",
        ),
    ] = False
    store: Annotated[str, moved_option(help="Feature store of the run, if it has moved.", metavar="DIR")] = ""
    images: Annotated[str, moved_option(help="Folder of the pictures, if it has moved.", metavar="DIR|URL")] = ""
    weights: Annotated[str, moved_option(help="Weights file of the backbone, if it has moved.", metavar="FILE")] = ""
    threshold: Annotated[
        str,
        model_option(
            help="Probability from which predict gives a picture a label, if pictures have several. f1 chooses the one "
            "with the best F1 on the validation pictures for each label.",
            metavar="NUMBER|f1",
        ),
    ] = "0.5"
    check: Annotated[
        int | None,
        model_option(
            parser=parse_count,
            metavar="N|all",
            help="Number of validation pictures to check the exported model on, in proportion to the classes.",
        ),
    ] = 256
    max_pixels: Annotated[int, model_option(min=1, help="Largest number of pixels in a picture, as in extraction.")] = (
        MAX_PIXELS
    )
