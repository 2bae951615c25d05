"""Classify pictures with an exported model; no store, run or weights file is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from base.errors import UsageError
from base.files import read_regular_file
from base.replace import recover_target
from base.terminal import Console, import_quietly
from extract.decoding.decode import DEFAULT_POLICY
from extract.decoding.policy import DecodePolicy, find_policy
from extract.engines import count_cores, plan_streams
from extract.images.recognize import describe_unsupported
from train_head.data.batches import Array
from train_head.export.formats import TENSORFLOW_FORMATS, find_format
from train_head.export.open import ExportedModel, locate_model, open_model
from train_head.export.target import describe_target
from train_head.predict.classify import Classifier
from train_head.predict.config import PredictConfig, RowFormat
from train_head.predict.list import list_pictures
from train_head.predict.prediction import Prediction, Predictions, UnusedPicture
from train_head.predict.rows import choose_row_format, open_rows
from train_head.predict.score import Score
from train_head.predict.sort import check_sort_folder, open_sorter
from train_head.runs.card import LABELS_FILE, ModelCard, list_label_contents

Consume = Callable[[Sequence[Prediction]], object]
"""Function that receives the predictions in several parts."""
OpenConsumer = Callable[[ModelCard], Consume]


class PredictionResult:
    """Result of a prediction without the predictions themselves, which may be too many for the memory."""

    def __init__(self, card: ModelCard, skipped: list[UnusedPicture]) -> None:
        """Create a result without pictures."""
        self.card = card
        self.skipped = skipped
        """Files in the given folders that are not pictures, by their extension or file type."""
        self.failed: list[UnusedPicture] = []
        """Pictures that cannot be read or decoded."""
        self.score = Score(card.classes, is_multi_label=card.is_multi_label)
        self.num_pictures = self.num_outliers = self.num_unsure = 0
        """Numbers of pictures: with a prediction, unlike the training pictures, and unsure ones among the others."""

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Count predictions."""
        for found in predictions:
            self.num_pictures += 1
            self.num_outliers += found.is_outlier
            self.num_unsure += found.is_unsure and not found.is_outlier
            self.score.add(found.image, found.label, is_training=found.is_training)


def predict_pictures(
    config: PredictConfig, console: Console, on_features: Callable[[Array], None] | None = None
) -> Predictions:
    """Classify pictures with an exported model.

    A picture that cannot be decoded is listed in `failed`, and the others are classified.

    Args:
        config: the pictures, the model and the outputs.
        console: output of warnings and progress.
        on_features: called with the features of each batch of predictions, (b, channels), averaged over height and
            width; only a model.keras has them.

    Raises:
        UsageError: a path does not exist, or an output cannot be written.
        HeadstartError: no picture was found, or the model file is not an exported model.
    """
    if config.output_format not in (None, RowFormat.TABLE) and not config.out:
        raise UsageError("output_format", "a file for the predictions", "none", "Give `out`, or leave the option out")
    kept: list[Prediction] = []
    result = predict_each(config, console, lambda card: kept.extend, on_features)
    return collect_predictions(result, kept)


def collect_predictions(result: PredictionResult, kept: Sequence[Prediction]) -> Predictions:
    """Return the predictions as a list with the other parts of the result."""
    predictions = Predictions(result.card.classes, is_multi_label=result.card.is_multi_label)
    predictions.extend(kept)
    predictions.failed, predictions.skipped = result.failed, result.skipped
    predictions.outlier_threshold = result.card.outlier_threshold
    return predictions


def predict_each(
    config: PredictConfig,
    console: Console,
    open_consumer: OpenConsumer,
    on_features: Callable[[Array], None] | None = None,
) -> PredictionResult:
    """Classify pictures as `predict_pictures` does, and pass the predictions on while others are still computed.

    Args:
        config: the pictures, the model and the outputs.
        console: output of warnings and progress.
        open_consumer: called with the card of the model; returns the function that receives the predictions.
        on_features: called with the features of each batch.

    Returns:
        The result without the predictions. With the option `out` or `sort_into`, they are also written.
    """
    row_format = choose_row_format(config)
    paths, skipped = list_pictures(config.files)
    check_sort_folder(config.sort_into, paths)
    recover_model(config.model)
    _configure_runtime(config.model)
    model, policy = load_model(config.model, console, has_features=on_features is not None)
    result = PredictionResult(model.card, skipped)
    with ExitStack() as stack:
        consumers: list[Consume] = [result.add, open_consumer(model.card)]
        if config.out:
            consumers.append(stack.enter_context(open_rows(Path(config.out), row_format, model.card)))
        if config.sort_into:
            consumers.append(stack.enter_context(open_sorter(Path(config.sort_into), model.card)).add)
        waiting: list[Prediction] = []
        progress = stack.enter_context(console.progress("predict", len(paths), "pictures"))
        batches = stack.enter_context(closing(Classifier(model, config, policy).classify(paths)))
        for batch in batches:
            result.failed += batch.failed
            if config.least_sure_first:
                waiting += batch.predictions
            else:
                for consume in consumers:
                    consume(batch.predictions)
            if on_features and batch.features is not None:
                on_features(batch.features)
            progress.advance(batch.num_pictures)
        for consume in consumers:
            consume(sorted(waiting, key=lambda found: found.margin))
    for warning in describe_unsupported((str(file.image), file.reason) for file in skipped):
        console.warning(warning)
    return result


def load_model(path: Path, console: Console, *, has_features: bool = False) -> tuple[ExportedModel, DecodePolicy]:
    """Open an exported model, and choose its decode policy.

    Args:
        path: file or folder of a format, or the folder of an export.
        console: output of warnings.
        has_features: whether the outputs have the features too; only model.keras has them.
    """
    recover_model(path)
    model = open_model(path, has_features=has_features)
    _warn_of_edited_labels(model, console)
    return model, _choose_policy(model, console)


def recover_model(path: Path) -> None:
    """Complete an interrupted export, which may have left the model in a staging folder."""
    recover_target(describe_target(path if find_format(path) is None else path.parent))


def _configure_runtime(path: Path) -> None:
    """Let TensorFlow compute one batch on each core, as in extraction, if it runs the model."""
    if locate_model(path)[1] in TENSORFLOW_FORMATS:
        import_quietly("keras")
        from extract.engines.tensorflow import configure_tensorflow

        # In a process that has used TensorFlow, its number of threads stays unchanged.
        configure_tensorflow(plan_streams(count_cores(0)))


def _choose_policy(model: ExportedModel, console: Console) -> DecodePolicy:
    """Return the decode policy of a model, or the default one with a warning if this version does not know it."""
    policy = find_policy(model.card.decode_policy)
    if policy is not None:
        return policy
    console.warning(
        f"{model.path} expects pictures decoded with {model.card.decode_policy!r}, but this version uses "
        f"{str(DEFAULT_POLICY)!r}. Probabilities may differ. Train and export the model again"
    )
    return DEFAULT_POLICY


def _warn_of_edited_labels(model: ExportedModel, console: Console) -> None:
    """Warn if the labels.txt beside a model differs from its classes."""
    path = model.path.parent / LABELS_FILE
    contents = list_label_contents(model.card.classes)
    try:
        if read_regular_file(path, max(map(len, contents)), follow=True) in contents:
            return
    except FileNotFoundError:
        return
    except OSError:
        # A file that is too large or not a regular file is not that of the export either.
        pass
    console.warning(
        f"{path} differs from the classes of the model. Predictions have the names in the model; to change them, "
        "rename the classes, then train and export again"
    )
