"""Classify pictures with an exported model: nothing else is needed, no store, run or weights."""

from __future__ import annotations

import html
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import HeadstartError, UsageError
from base.replace import recover_target
from base.terminal import Console
from extract.decode import DECODE_POLICY, UndecodableImageError, decode_within_budget, read_picture
from extract.images.scan import EXTENSIONS, SPECIAL_FILE, describe_unsupported, explain_extension
from extract.images.walk import walk_files
from train_head.config import PredictConfig
from train_head.data.batches import Array
from train_head.runs.card import MODEL_FILE


@dataclass(frozen=True)
class Prediction:
    """The prediction for one picture."""

    image: Path
    label: str
    """The most probable class."""
    probability: float
    """That of the label."""
    probabilities: dict[str, float]
    """Of each class; they add up to 1."""


@dataclass(frozen=True)
class UnusedPicture:
    """A file without a prediction."""

    image: Path
    reason: str


class Predictions(list[Prediction]):
    """Predictions, in the order of the pictures."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Create an empty list for a model's classes."""
        super().__init__()
        self.classes = classes
        self.failed: list[UnusedPicture] = []
        """Pictures that cannot be decoded."""
        self.skipped: list[UnusedPicture] = []
        """Files in the given folders that are no pictures by their names."""

    @property
    def accuracy(self) -> float | None:
        """Share of pictures whose label is the name of their nearest folder named as a class; None without one."""
        parts = (reversed(prediction.image.parent.parts) for prediction in self)
        truths = [next((part for part in found if part in self.classes), None) for found in parts]
        if not truths or None in truths:
            return None
        return sum(found.label == truth for found, truth in zip(self, truths, strict=True)) / len(truths)

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        found = [{"image": str(p.image), "label": p.label, "probability": p.probability} for p in self]
        unused = {"failed": self.failed, "skipped": self.skipped}
        rows = {name: [{**asdict(file), "image": str(file.image)} for file in files] for name, files in unused.items()}
        return {"predictions": found, **rows} | ({} if self.accuracy is None else {"accuracy": self.accuracy})

    def _repr_html_(self) -> str:
        lines = [html.escape(f"{p.image}: {p.label} ({p.probability:.4f})") for p in self]
        return f"<p>{'<br>'.join(lines)}</p>"


def predict_pictures(config: PredictConfig, console: Console) -> Predictions:
    """Classify pictures with an exported model.

    Raises:
        UsageError: a path does not exist.
        HeadstartError: there is no picture, or the file is no exported model.
    """
    from extract.pixels import resize_pixels
    from train_head.export.load import compile_model, limit_batch, load_export
    from train_head.export.write import describe_target
    from train_head.solvers.head import expand_probabilities

    paths, skipped = list_pictures(config.files)
    if config.model.name == MODEL_FILE:
        # An interrupted export may have left the model beside its folder.
        recover_target(describe_target(config.model.parent))
    card, model = load_export(config.model)
    if card.decode_policy != DECODE_POLICY:
        console.warning(
            f"{config.model} was made for pictures decoded by {card.decode_policy!r}; they are decoded by "
            f"{DECODE_POLICY!r} here, which may change probabilities. Train and export it again"
        )
    run, predictions = compile_model(model), Predictions(card.classes)
    predictions.skipped = skipped

    def read_resized() -> Iterator[tuple[Path, Array]]:
        for path in paths:
            try:
                with decode_within_budget(read_picture(path, config.max_pixels), config.max_pixels) as pixels:
                    resized = resize_pixels(pixels, card.image_size)
            except UndecodableImageError as error:
                predictions.failed.append(UnusedPicture(path, str(error)))
                progress.advance(1)
            else:
                yield path, resized

    pictures, batch_size = read_resized(), limit_batch(config.batch_size, card.image_size)
    with console.progress("predict", len(paths), "pictures") as progress:
        while batch := list(islice(pictures, batch_size)):
            found = expand_probabilities(run(np.stack([resized for _, resized in batch])))
            for (path, _), row in zip(batch, found.tolist(), strict=True):
                probability = max(row)
                label = card.classes[row.index(probability)]
                probabilities = dict(zip(card.classes, row, strict=True))
                predictions.append(Prediction(path, label, probability, probabilities))
            progress.advance(len(batch))
    if unsupported := describe_unsupported((str(file.image), file.reason) for file in skipped):
        console.warning(unsupported)
    return predictions


def list_pictures(files: Sequence[Path]) -> tuple[list[Path], list[UnusedPicture]]:
    """List the given files, and the pictures in the given folders by path; and the files in these that are skipped.

    Raises:
        UsageError: a path does not exist.
        HeadstartError: there is no picture.
    """
    paths: list[Path] = []
    skipped: list[UnusedPicture] = []
    for file in files:
        try:
            is_folder = stat.S_ISDIR(file.stat().st_mode)
        except OSError as error:
            got = "nothing there" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
            raise UsageError(file, "a picture or a folder", got, "Check the path") from error
        if not is_folder:
            paths.append(file)
            continue
        for inside, problem in sorted(walk_files(file, ".")):
            path = file / inside
            with suppress(OSError):
                if not stat.S_ISREG(path.stat().st_mode):
                    problem = problem or SPECIAL_FILE
            if problem or path.suffix.lower() not in EXTENSIONS:
                skipped.append(UnusedPicture(path, problem or explain_extension(inside)))
            else:
                paths.append(path)
    if not paths:
        shown = f"none ({skipped[0].image}: {skipped[0].reason})" if skipped else "none"
        raise HeadstartError(", ".join(map(str, files)), "pictures", shown, "Name a picture or a folder of them")
    return paths, skipped
