"""Effect of the usual mistakes in loading pictures on an exported model, as the table in docs/how-to/export.md.

Run `python -m benchmarks.mistakes MODEL FOLDER`. The folder has a folder with pictures for each class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageOps
from typer import Argument

from base.command_line import run_app
from base.errors import HeadstartError
from base.terminal import Console
from train_head.data.batches import Array
from train_head.evaluation.metrics import predict_classes
from train_head.export.open import open_model
from train_head.export.readme.template import format_table

_Picture = Image.Image
HEADER = "input", "accuracy", "most frequent class", "changed classes", "largest change of a probability"


@dataclass(frozen=True)
class MistakesConfig:
    """Options of the benchmark."""

    model: Annotated[Path, Argument(help="Exported model with one class for each picture.")]
    folder: Annotated[Path, Argument(help="Folder with a folder of pictures for each class.")]


def list_inputs(size: int) -> dict[str, Callable[[_Picture], Array]]:
    """List the ways to make the input of a model, (height, width, 3); the first is right.

    Args:
        size: side in pixels to which the model resizes.
    """
    resizes = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resizes |= {"nearest": Image.Resampling.NEAREST, "box": Image.Resampling.BOX}
    square = size, size

    def as_array(picture: _Picture) -> Array:
        return np.asarray(picture, np.float32)

    def resize_by(method: Image.Resampling) -> Callable[[_Picture], Array]:
        return lambda picture: as_array(picture.resize(square, method))

    return {
        "original pixels, RGB, 0 to 255": as_array,
        "divided by 255": lambda picture: as_array(picture) / np.float32(255),
        "scaled to [-1, 1]": lambda picture: as_array(picture) / np.float32(127.5) - 1,
        "BGR": lambda picture: as_array(picture)[..., ::-1],
        **{f"resized first by Pillow, {name}": resize_by(method) for name, method in resizes.items()},
        "cropped to a square": lambda picture: as_array(ImageOps.fit(picture, square, Image.Resampling.BILINEAR)),
        "padded to a square": lambda picture: as_array(ImageOps.pad(picture, square, Image.Resampling.BILINEAR)),
    }


def measure_mistakes(config: MistakesConfig, console: Console) -> Mapping[str, Any]:
    """Classify pictures with each mistake, and print a Markdown table."""
    model = open_model(config.model)
    classes = model.card.classes
    paths = sorted(path for label in classes for path in (config.folder / label).iterdir())
    if not paths or model.card.is_multi_label:
        raise HeadstartError(config.folder, "pictures with one class each", "none", "Give another folder or model")
    targets = np.array([classes.index(path.parent.name) for path in paths])
    rows: list[dict[str, Any]] = []
    reference: Array | None = None
    for name, make_input in list_inputs(model.card.image_size).items():
        found = []
        with console.progress(name, len(paths), "pictures") as progress:
            for path in paths:
                picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
                found.append(model.run(make_input(picture)[None]).probabilities)
                progress.advance(1)
        probabilities = np.concatenate(found)
        reference = probabilities if reference is None else reference
        predicted = predict_classes(probabilities)
        counts = np.bincount(predicted, minlength=len(classes))
        rows.append(
            {
                "input": name,
                "accuracy": float((predicted == targets).mean()),
                "most_frequent": classes[int(counts.argmax())],
                "share_of_most_frequent": float(counts.max() / len(paths)),
                "share_changed": float((predicted != predict_classes(reference)).mean()),
                "max_change": float(np.abs(probabilities - reference).max()),
            }
        )
    if not console.options.json:
        print(format_table([HEADER, *map(_format_row, rows)]))
    return {"rows": rows}


def _format_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    frequent = f"{row['most_frequent']}, {row['share_of_most_frequent']:.1%}"
    changes = f"{row['share_changed']:.1%}", f"{row['max_change']:.2f}"
    return row["input"], f"{row['accuracy']:.4f}", frequent, *changes


if __name__ == "__main__":
    run_app(measure_mistakes, MistakesConfig, "python -m benchmarks.mistakes")
