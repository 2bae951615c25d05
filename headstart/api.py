"""The functions of the Python API: each makes a command's options from keywords, and does what the command does.

Options have the command line's names and defaults; `headstart/__init__.pyi`, which `python -m headstart.stub` writes,
declares each of them for type checkers and editors.
"""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartWarning, UsageError
from base.options import make_options
from base.terminal import Console, ConsoleOptions, ProgressCallback
from extract.config import ExtractConfig
from features.cuts import open_store as open_feature_store
from features.pooled import POOLED
from features.schema import Pool
from features.store import FeatureStore
from headstart.document import documented
from train_head.config import ExportConfig, HeadConfig, PredictConfig, ReportConfig, TrainConfig
from train_head.sweep.config import SweepConfig

if TYPE_CHECKING:
    from train_head.export.write import ExportResult
    from train_head.predict.classify import Predictions
    from train_head.report.page import Report
    from train_head.runs.read import Run
    from train_head.sweep.table import Sweep

StrPath = str | os.PathLike[str]
Progress = bool | ProgressCallback | None


class _ApiConsole(Console):
    """Prints nothing unless progress is True; warnings become Python's own."""

    def __init__(self, progress: Progress) -> None:
        is_quiet = progress is not True or sys.stderr is None
        super().__init__(ConsoleOptions(quiet=is_quiet), progress if callable(progress) else None)

    def warning(self, message: str) -> None:
        """Issue a HeadstartWarning at the line that called the API."""
        depth = next((depth for depth, frame in enumerate(inspect.stack()) if not _is_own(frame.frame.f_globals)), 1)
        warnings.warn(message, HeadstartWarning, stacklevel=depth + 1)


def _is_own(frame_globals: Mapping[str, Any]) -> bool:
    package = str(frame_globals.get("__name__", "")).partition(".")[0]
    return package in {"base", "features", "extract", "train_head", "headstart", "contextlib"}


def _open_console(progress: Progress) -> Console:
    """Prepare a call: Keras must run on TensorFlow, whatever its configuration file names."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        advice = "A function receives the stage, the number done, the total and the rate a second"
        raise UsageError("progress", "None, True or a function", repr(progress), advice)
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != "tensorflow":
        advice = "Set KERAS_BACKEND=tensorflow before keras is imported"
        raise UsageError("keras", "the TensorFlow backend", keras.config.backend(), advice)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return _ApiConsole(progress)


def _locate_store(store: FeatureStore | StrPath) -> dict[str, Any]:
    """Return the options that name an open store: its path, and the mean over stored features where it takes that."""
    if not isinstance(store, FeatureStore):
        return {"store": store}
    return {"store": store.path} | ({"pool": Pool.AVG} if store.fingerprint.pool == POOLED else {})


def _locate_run(run: Any) -> Any:
    """Return the folder of a run; raise HeadstartError where another run has taken it since the run was opened."""
    from train_head.runs.read import Run
    from train_head.runs.write import require_unchanged

    if not isinstance(run, Run):
        return run
    require_unchanged(run)
    return run.folder


@documented(ExtractConfig)
def extract(images: StrPath, store: StrPath, *, progress: Progress = None, **options: Any) -> FeatureStore:
    """Run the frozen backbone over every new picture once and keep the features.

    Args:
        images: Folder of class folders, or of train/ and validation/ with them.
        store: Folder of the feature store. It is created, or brought up to date.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        **options: The options of the command.

    Returns:
        The feature store; of several cuts, that of the last.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix; what was finished is kept.
    """
    config = make_options(ExtractConfig, {"images": images, "store": store, **options}, "extract")
    from extract.run import extract_features, warn_of_unusable

    console = _open_console(progress)
    result = extract_features(config, console)
    warn_of_unusable(result, console)
    if result.stopped:
        raise result.stopped
    return open_store(config.store, config.cuts[-1])


def open_store(path: StrPath, cut: str = "", pool: str = "none") -> FeatureStore:
    """Open a feature store for reading.

    Args:
        path: The store's folder, or a packed store.
        cut: Layer whose features to read, where the folder holds several.
        pool: "avg" gives the mean of each channel in place of features that are stored whole.

    Raises:
        UsageError: there is no such cut, or the features are means already.
        FeatureStoreError: there is no store, or it is damaged.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UsageError("path", "a path", repr(path), "Give the folder of a store, or a packed store")
    return open_feature_store(path, cut, pool)


@documented(TrainConfig)
def train(store: FeatureStore | StrPath, run: StrPath, *, progress: Progress = None, **options: Any) -> Run:
    """Fit a head on stored features and keep it as a run, with its metrics and a report.

    A folder that holds this very run already is returned as it is. An earlier run of other options or pictures is
    kept beside it, under its name and date.

    Args:
        store: The feature store, or its path.
        run: Folder for the run.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        **options: The options of the command.

    Returns:
        The run.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix.
    """
    config = make_options(TrainConfig, {"run": run, **_locate_store(store), **options}, "train")
    console = _open_console(progress)
    from train_head.report.page import report_fitted_run
    from train_head.runs.read import Run
    from train_head.train import train_head

    train_head(config, console)
    report_fitted_run(config, console)
    return Run(config.run)


@documented(SweepConfig)
def sweep(store: FeatureStore | StrPath, out: StrPath, *, progress: Progress = None, **options: Any) -> Sweep:
    """Fit many heads on one extraction, side by side with simple baselines, and keep the best.

    Each option of a head takes one value, or a list of values to try, such as `dropout=[0, 0.2, 0.5]`.

    Args:
        store: The feature store, or its path.
        out: Folder for the runs, the table, the plot and the best run.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        **options: The options of the command.

    Returns:
        The sweep: its rows, and the best run.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix.
    """
    names = {field.name for field in fields(HeadConfig)}
    lists = {
        name: list(values)
        for name, values in options.items()
        if name in names and isinstance(values, Iterable) and not isinstance(values, str | os.PathLike)
    }
    for name, values in lists.items():
        if not values or any(value is None or isinstance(value, list | tuple) for value in values):
            raise UsageError(name, "one value, or a list of values to try", repr(values), "Leave the option out")
    given = {name: value for name, value in options.items() if name not in lists}
    if lists:
        tries = [f"{name}={','.join(map(str, values))}" for name, values in lists.items()]
        given["tries"] = [*(options.get("tries") or []), *tries]
    config = make_options(SweepConfig, {"out": out, **_locate_store(store), **given}, "sweep")
    console = _open_console(progress)
    from train_head.sweep.run import sweep_heads
    from train_head.sweep.table import Sweep

    sweep_heads(config, console)
    return Sweep(config.out)


@documented(ExportConfig)
def export(run: Run | StrPath, out: StrPath, *, progress: Progress = None, **options: Any) -> ExportResult:
    """Stitch backbone and head into one Keras model that takes raw pixels, and check it on real pictures.

    Args:
        run: The run, or its path.
        out: Folder for model.keras and labels.txt.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        **options: The options of the command.

    Returns:
        The files, and how far the model differs from its parts.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix; an earlier export stays.
    """
    config = make_options(ExportConfig, {"run": _locate_run(run), "out": out, **options}, "export")
    console = _open_console(progress)
    from train_head.export.write import export_run

    return export_run(config, console)


@documented(PredictConfig)
def predict(
    model: ExportResult | StrPath, files: StrPath | Iterable[StrPath], *, progress: Progress = None, **options: Any
) -> Predictions:
    """Classify pictures with an exported model.

    Args:
        model: What `export` returned, or the path of a model.keras that it wrote.
        files: Pictures, or folders of pictures.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        **options: The options of the command.

    Returns:
        A list with one prediction a picture; pictures that could not be used are in its `failed`.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix.
    """
    path = model if isinstance(model, str | os.PathLike) else getattr(model, "files", [model])[0]
    config = make_options(PredictConfig, {"model": path, "files": files, **options}, "predict")
    if not config.files:
        raise UsageError("files", "a picture or a folder of pictures", "an empty list", "Give one at least")
    console = _open_console(progress)
    from train_head.predict.classify import predict_pictures

    found = predict_pictures(config, console)
    if found.failed:
        first = found.failed[0]
        console.warning(f"{len(found.failed):,} pictures have no prediction, such as {first.image}: {first.reason}")
    return found


@documented(ReportConfig)
def report(run: Run | StrPath, *, progress: Progress = None, **options: Any) -> Report:
    """Write a run's report again, or evaluate the pictures in test/ as well.

    Args:
        run: The run, or its path.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        **options: The options of the command.

    Returns:
        The report, which a notebook shows.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix.
    """
    config = make_options(ReportConfig, {"run": _locate_run(run), **options}, "report")
    console = _open_console(progress)
    from train_head.report.page import Report, report_run

    return Report(report_run(config, console))
