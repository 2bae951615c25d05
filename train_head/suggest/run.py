"""Suggest the pictures to label next: predict, rank, and write a table and a page with thumbnails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import HeadstartError, UsageError
from base.files import read_regular_file
from base.replace import replace_folder
from base.target import Target, check_target
from base.terminal import Console, format_count
from base.urls import Location
from extract.decoding.decode import DEFAULT_POLICY
from extract.decoding.policy import find_policy
from features.schema import FEATURE_DTYPE, Features
from train_head.evaluation.mahalanobis import scale_to_unit
from train_head.export.config import Format
from train_head.export.formats import find_format
from train_head.predict.config import PredictConfig
from train_head.predict.prediction import Predictions, UnusedPicture
from train_head.predict.run import predict_pictures, recover_model
from train_head.report.gallery import make_thumbnail
from train_head.report.template import embed_page, make_environment
from train_head.runs.card import MODEL_FILE, ModelCard, read_card
from train_head.runs.tables import format_csv
from train_head.suggest.config import SuggestConfig
from train_head.suggest.rank import rank_pictures

TABLE_FILE, PAGE_FILE = "suggestions.csv", "suggestions.html"
GENERATOR = "headstart suggest"
"""Marks the page as written by this command."""
TEMPLATE = "page.html.jinja"
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class Suggestion:
    """Picture to label, with its prediction."""

    rank: int
    """Place in the list, from 1."""
    path: Location
    label: str
    """Predicted label."""
    probability: float
    """Probability of the most probable class, from 0 to 1."""
    margin: float
    """Difference of the two highest probabilities, from 0 to 1. If a picture may have several labels: smallest
    difference of a probability and the threshold of its class."""


class Suggestions(list[Suggestion]):
    """List of `Suggestion`, in the order in which to label them."""

    def __init__(self, folder: Path, predictions: Predictions) -> None:
        """Create an empty list.

        Args:
            folder: folder of the table and the page.
            predictions: predictions of all pictures.
        """
        super().__init__()
        self.table_path, self.page_path = folder / TABLE_FILE, folder / PAGE_FILE
        self.num_pictures = len(predictions)
        """Number of pictures that were classified."""
        self.num_outliers = 0
        """Number of pictures that were left out as outliers."""
        self.failed: list[UnusedPicture] = predictions.failed
        """Pictures that cannot be read or decoded."""
        self.skipped: list[UnusedPicture] = predictions.skipped
        """Files in the given folders that are not pictures, by their extension or file type."""

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {
            "suggestions": [asdict(each) | {"path": str(each.path)} for each in self],
            "num_pictures": self.num_pictures,
            "num_outliers": self.num_outliers,
            "failed": [file.to_json() for file in self.failed],
            "skipped": [file.to_json() for file in self.skipped],
            "table": str(self.table_path),
            "page": str(self.page_path),
        }

    def _repr_html_(self) -> str:
        return embed_page(self.page_path)


def suggest_pictures(config: SuggestConfig, console: Console) -> Suggestions:
    """Rank unlabelled pictures by what labelling them would teach, and write the table and the page.

    A picture that cannot be decoded is listed in `failed`, and the others are ranked.

    Raises:
        UsageError: a path does not exist, or the model cannot rank pictures or find outliers.
        HeadstartError: no picture was found, none is left, the model file is not an exported model, or the folder of
            the result cannot be written or holds foreign files.
    """
    target = describe_target(config.out)
    check_target(target)
    recover_model(config.model)
    model = _find_keras_model(config.model)
    card = read_card(model)
    _check_options(card, config)
    blocks: list[Features] = []
    asked = PredictConfig(config.files, model, config.batch_size, config.max_pixels)
    with replace_folder(target) as replacement:
        predictions = predict_pictures(
            asked, console, lambda features: blocks.append(scale_to_unit(features).astype(FEATURE_DTYPE))
        )
        found = _rank(config, card, predictions, np.concatenate(blocks or [np.zeros((0, 0), FEATURE_DTYPE)]), console)
        (replacement.staging / TABLE_FILE).write_bytes(format_table(found))
        (replacement.staging / PAGE_FILE).write_bytes(_render_page(found, card, config))
        replacement.commit()
    return found


def describe_target(out: Path) -> Target:
    """Describe the output folder: the two files in it that may be replaced."""
    return Target(out, {TABLE_FILE: None, PAGE_FILE: None}, refuse_foreign_files, "`out`")


def refuse_foreign_files(out: Path) -> None:
    """Raise HeadstartError if a folder's suggestions.csv or suggestions.html was not written by this command."""
    marks = {TABLE_FILE: format_table([]).strip(), PAGE_FILE: f'content="{GENERATOR}"'.encode()}
    for name, mark in marks.items():
        path = out / name
        if path.exists() and mark not in read_regular_file(path, _MAX_BYTES):
            raise HeadstartError(path, "suggestions of Headstart", "another file", "Move it, or give another `out`")


def format_table(suggestions: list[Suggestion]) -> bytes:
    """Format suggestions.csv."""
    rows = ((s.rank, s.path, s.label, f"{s.probability:.6g}", f"{s.margin:.6g}") for s in suggestions)
    return format_csv([Suggestion.__dataclass_fields__, *rows])


def _find_keras_model(path: Path) -> Path:
    """Return the path of a model.keras, given the file or the folder of its export; other formats have no features."""
    found = find_format(path)
    if found is None and path.is_dir():
        return path / MODEL_FILE
    if found not in (None, Format.KERAS):
        advice = f"Give the {MODEL_FILE} of the export"
        raise UsageError(path, f"a {MODEL_FILE}, whose features are compared", f"the format {found}", advice)
    return path


def _check_options(card: ModelCard, config: SuggestConfig) -> None:
    if config.skip_outliers and card.outlier_threshold is None:
        advice = "Leave the option out, or train and export the model again"
        raise UsageError("--skip-outliers", "a model with a detector of outliers", "none in the model", advice)


def _rank(
    config: SuggestConfig, card: ModelCard, predictions: Predictions, features: Features, console: Console
) -> Suggestions:
    found = Suggestions(config.out, predictions)
    kept = [row for row, each in enumerate(predictions) if not (config.skip_outliers and each.is_outlier)]
    found.num_outliers = len(predictions) - len(kept)
    if not kept:
        got = f"none of {format_count(len(predictions), 'picture')}" if predictions else "only unreadable files"
        raise HeadstartError(config.files[0], "pictures to rank", got, "Give other pictures")
    margins = np.array([predictions[row].margin for row in kept])
    with console.progress("suggest", min(config.count, len(kept)), "pictures") as progress:
        rows = rank_pictures(margins, features[kept], config.count, progress.advance)
    for rank, row in enumerate(rows, 1):
        each = predictions[kept[row]]
        found.append(Suggestion(rank, each.image, each.label, each.probability, float(margins[row])))
    return found


def _render_page(found: Suggestions, card: ModelCard, config: SuggestConfig) -> bytes:
    policy = find_policy(card.decode_policy) or DEFAULT_POLICY
    with ThreadPoolExecutor() as pool:
        place = config.out.resolve()
        thumbnails = list(pool.map(lambda each: make_thumbnail(each.path, None, place, policy), found))
    page = (
        make_environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            suggestions=list(zip(found, thumbnails, strict=True)),
            found=found,
            classes=card.classes,
            generator=GENERATOR,
        )
    )
    return page.encode("utf-8", "backslashreplace")
