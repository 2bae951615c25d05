"""Functions of the Python API for exported models: export a run, classify pictures, and rank unlabelled ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from base.errors import UsageError
from base.terminal import Console, format_count
from headstart.call import Progress, StrPath, locate_run, prepare_call
from headstart.document import documented
from train_head.export.config import ExportConfig
from train_head.predict.config import PredictConfig
from train_head.suggest.config import SuggestConfig

if TYPE_CHECKING:
    from train_head.export.result import ExportResult
    from train_head.predict.prediction import Predictions
    from train_head.runs.read import Run
    from train_head.suggest.run import Suggestions

Config = TypeVar("Config", PredictConfig, SuggestConfig)


def _prepare_call(
    options: type[Config], values: Mapping[str, Any], function: str, progress: Progress
) -> tuple[Config, Console]:
    """Return the options and the console of a call whose `model` may be the result of `export`."""
    model = values["model"]
    path = model if isinstance(model, str | os.PathLike) else getattr(model, "files", [model])[0]
    config, console = prepare_call(options, {**values, "model": path}, function, progress)
    if not config.files:
        raise UsageError("files", "a picture or a folder of pictures", "an empty list", "Give at least one")
    return config, console


def _warn_of_failed(found: Predictions | Suggestions, effect: str, console: Console) -> None:
    """Issue a warning with the first of the pictures that could not be decoded."""
    if found.failed:
        first, pictures = found.failed[0], format_count(len(found.failed), "picture")
        console.warning(f"{pictures} {effect}, such as {first.image}: {first.reason}. See `failed`")


@documented(ExportConfig)
def export(run: Run | StrPath, out: StrPath, *, progress: Progress = None, **options: Any) -> ExportResult:
    """Join a run's backbone and head into one model that takes raw pixels, in one or more formats, and check it.

    If the folder already holds the export of this run with the same options, its result is returned.

    Args:
        run: Run, or its path.
        out: Folder for the exported model.
        progress: True prints messages and progress on stderr. A function is called with the stage, the number done,
            the total and the rate per second.
        **options: The options of the command.

    Returns:
        The paths of the files, and the differences between the model and its parts. `load()` returns the `keras.Model`.

    Raises:
        TypeError: an unknown keyword.
        UsageError: an invalid value.
        HeadstartError: the model differs from its parts, or another error that the user can fix. An earlier export in
            the folder is kept. If only some formats fail, the others are written.

    Warns:
        HeadstartWarning: some validation pictures are missing or have changed since extraction.

    Example:
        >>> model = hs.export(run, "work/model").load()
        >>> model.predict(images)  # (n, height, width, 3) RGB in 0-255, any size
    """
    config, console = prepare_call(ExportConfig, {"run": locate_run(run), "out": out, **options}, "export", progress)
    from train_head.export.write import export_run

    return export_run(config, console)


@documented(PredictConfig)
def predict(
    model: ExportResult | StrPath, files: StrPath | Iterable[StrPath], *, progress: Progress = None, **options: Any
) -> Predictions:
    """Classify pictures with an exported model.

    Args:
        model: Result of `export`, or the path of its folder or of a model in it, of any format.
        files: Pictures, or folders of pictures.
        progress: True prints messages and progress on stderr. A function is called with the stage, the number done,
            the total and the rate per second.
        **options: The options of the command.

    Returns:
        A list with one prediction for each picture. Pictures that cannot be decoded are listed in its attribute
        `failed`, and other files of the folders in `skipped`.

    Raises:
        TypeError: an unknown keyword.
        UsageError: an invalid value, or a path that does not exist.
        HeadstartError: no picture was found, or the model is not an exported model.

    Warns:
        HeadstartWarning: some pictures have no prediction.

    Example:
        >>> for prediction in hs.predict("work/model/model.keras", ["a.jpg", "b.jpg"]):
        ...     print(prediction.image, prediction.label, prediction.probability)
    """
    values = {"model": model, "files": files, **options}
    config, console = _prepare_call(PredictConfig, values, "predict", progress)
    from train_head.predict.run import predict_pictures

    predictions = predict_pictures(config, console)
    _warn_of_failed(predictions, "without a prediction", console)
    return predictions


@documented(SuggestConfig)
def suggest(
    model: ExportResult | StrPath,
    files: StrPath | Iterable[StrPath],
    out: StrPath,
    *,
    progress: Progress = None,
    **options: Any,
) -> Suggestions:
    """Rank unlabelled pictures by what labelling them would teach, with an exported model.

    The pictures that the model is least certain about come first, and the list is spread over different pictures. It is
    written as suggestions.csv, and with thumbnails as suggestions.html.

    Args:
        model: Result of `export`, or the path of a model.keras that it wrote.
        files: Pictures, or folders of pictures.
        out: Folder for suggestions.csv and suggestions.html.
        progress: True prints messages and progress on stderr. A function is called with the stage, the number done,
            the total and the rate per second.
        **options: The options of the command.

    Returns:
        A list of suggestions, in the order in which to label the pictures. Pictures that cannot be decoded are listed
        in its attribute `failed`.

    Raises:
        TypeError: an unknown keyword.
        UsageError: an invalid value, or a path that does not exist.
        HeadstartError: no picture was found, the model is not an exported model, or `out` holds foreign files.

    Warns:
        HeadstartWarning: some pictures could not be read.

    Example:
        >>> for suggestion in hs.suggest("work/model/model.keras", "unlabelled", "work/suggestions", count=20):
        ...     print(suggestion.rank, suggestion.path, suggestion.margin)
    """
    values = {"model": model, "files": files, "out": out, **options}
    config, console = _prepare_call(SuggestConfig, values, "suggest", progress)
    from train_head.suggest.run import suggest_pictures

    found = suggest_pictures(config, console)
    _warn_of_failed(found, "left out", console)
    return found
