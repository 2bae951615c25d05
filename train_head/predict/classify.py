"""Classify pictures with an exported model; no store, run or weights file is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from base.replace import recover_target
from base.terminal import Console
from extract.decoding.decode import DEFAULT_POLICY, decode_within_budget
from extract.decoding.policy import find_policy
from extract.decoding.read import UndecodableImageError, read_picture
from extract.images.recognize import describe_unsupported
from train_head.config import PredictConfig
from train_head.data.batches import Array
from train_head.predict.list import list_pictures
from train_head.predict.prediction import Predictions, UnusedPicture, predict_labels
from train_head.runs.card import MODEL_FILE


def predict_pictures(
    config: PredictConfig, console: Console, on_features: Callable[[Array], None] | None = None
) -> Predictions:
    """Classify pictures with an exported model.

    A picture that cannot be decoded is listed in `failed`, and the others are classified.

    Args:
        config: the pictures and the model.
        console: output of warnings and progress.
        on_features: called with the features of each batch of predictions, (b, channels), averaged over height and
            width.

    Raises:
        UsageError: a path does not exist.
        HeadstartError: no picture was found, or the model file is not an exported model.
    """
    from extract.pixels import resize_pixels
    from train_head.export.load import add_features, compile_outputs, limit_batch, load_export
    from train_head.solvers.head import expand_probabilities

    paths, skipped = list_pictures(config.files)
    recover_model(config.model)
    card, model = load_export(config.model)
    policy = find_policy(card.decode_policy)
    if policy is None:
        policy = DEFAULT_POLICY
        console.warning(
            f"{config.model} expects pictures decoded with {card.decode_policy!r}, but this version uses "
            f"{str(policy)!r}. Probabilities may differ. Train and export the model again"
        )
    run = compile_outputs(add_features(model, card.image_size) if on_features else model)
    predictions = Predictions(card.classes, is_multi_label=card.is_multi_label)
    predictions.skipped, predictions.outlier_threshold = skipped, card.outlier_threshold

    def read_resized() -> Iterator[tuple[Path, Array]]:
        for path in paths:
            try:
                with decode_within_budget(read_picture(path, config.max_pixels), config.max_pixels, policy) as pixels:
                    resized = resize_pixels(pixels, card.image_size)
            except UndecodableImageError as error:
                predictions.failed.append(UnusedPicture(path, str(error)))
                progress.advance(1)
            else:
                yield path, resized

    pictures, batch_size = read_resized(), limit_batch(config.batch_size, card.image_size)
    with console.progress("predict", len(paths), "pictures") as progress:
        while batch := list(islice(pictures, batch_size)):
            found = run(np.stack([resized for _, resized in batch]))
            rows = expand_probabilities(found.probabilities)
            distances = [None] * len(batch) if found.distances is None else found.distances.tolist()
            for (path, _), row, distance in zip(batch, rows, distances, strict=True):
                predictions.append(predict_labels(path, row, distance, card))
            if on_features and found.features is not None:
                on_features(found.features)
            progress.advance(len(batch))
    if unsupported := describe_unsupported((str(file.image), file.reason) for file in skipped):
        console.warning(unsupported)
    return predictions


def recover_model(path: Path) -> None:
    """Complete an interrupted export, which may have left the model in a staging folder."""
    from train_head.export.target import describe_target

    if path.name == MODEL_FILE:
        recover_target(describe_target(path.parent))
