"""Headstart: extract features once, retrain heads in seconds. Written by `python -m headstart.stub`."""

import os
from collections.abc import Iterable, Sequence
from typing import Literal

from base import errors as errors
from base.errors import HeadstartError as HeadstartError
from base.terminal import ProgressCallback
from features.store import FeatureStore
from train_head.classifier import HeadClassifier as HeadClassifier
from train_head.export.write import ExportResult
from train_head.predict.classify import Predictions
from train_head.report.page import Report
from train_head.runs.read import Run
from train_head.sweep.table import Sweep

StrPath = str | os.PathLike[str]
Progress = bool | ProgressCallback | None

def extract(
    images: StrPath,
    store: StrPath,
    *,
    progress: Progress = None,
    weights: StrPath = "auto",
    weights_sha256: str = "",
    cut: str = "mixed7",
    image_size: int = 150,
    pool: Literal["none", "avg"] = "none",
    views: int = 1,
    view_seed: int = 0,
    engine: Literal["tensorflow", "openvino"] = "tensorflow",
    precision: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 0,
    threads: int = 0,
    compression: Literal["none", "gzip", "zstd"] = "gzip",
    max_pixels: int = 89000000,
    max_bad: float = 0.01,
    strict: bool = False,
    rehash: bool = False,
    new_store: bool = False,
) -> FeatureStore:
    """Run the frozen backbone over every new picture once and keep the features.

    Args:
        images: Folder of class folders, or of train/ and validation/ with them.
        store: Folder of the feature store. It is created, or brought up to date.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        weights: Weights of the backbone: auto, imagenet, nsfwjs, random, or a weights file. Default auto.
        weights_sha256: Expected SHA-256 of the weights file.
        cut: Layer whose output is stored. Several, such as mixed5,mixed7, take one pass. Default mixed7.
        image_size: Side of the square that pictures are resized to, in pixels. Default 150.
        pool: avg stores the mean of each channel, 768 numbers a picture at mixed7, instead of the whole output.
            Default none.
        views: Versions stored of each training picture: the picture itself and random augmentations. Expects a
            whole number of at least 1. Default 1.
        view_seed: Random seed of the augmentations. Expects a whole number of at least 0. Default 0.
        engine: Library that runs the backbone. openvino needs the extra of that name. Default tensorflow.
        precision: bfloat16 is about twice as fast on processors that support it; features differ by 2 %. Default
            float32.
        batch_size: Pictures in one batch of the backbone. 0 means 32 at 150 px, fewer of larger ones. Expects a
            whole number of at least 0. Default 0.
        threads: Processor cores to use. 0 means all that are available. Expects a whole number of at least 0.
            Default 0.
        compression: Compression of features on disk. zstd reads faster and needs the extra of that name. Default
            gzip.
        max_pixels: Pictures with more pixels are refused without decoding. Expects a whole number of at least 1.
            Default 89000000.
        max_bad: Share of the pictures, rounded up, that may be unreadable before extraction stops. Expects a number
            from 0.0 to 1.0. Default 0.01.
        strict: Stop at the first unreadable picture, like --max-bad 0. Default False.
        rehash: Read every file again, even if its size and modification time are unchanged. Default False.
        new_store: Start a new store. An existing one is renamed with its date and kept. Default False.

    Returns:
        The feature store; of several cuts, that of the last.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix; what was finished is kept.
    """

def open_store(
    path: StrPath,
    cut: str = "",
    pool: str = "none",
) -> FeatureStore:
    """Open a feature store for reading.

    Args:
        path: The store's folder, or a packed store.
        cut: Layer whose features to read, where the folder holds several.
        pool: "avg" gives the mean of each channel in place of features that are stored whole.

    Raises:
        UsageError: there is no such cut, or the features are means already.
        FeatureStoreError: there is no store, or it is damaged.
    """

def train(
    store: FeatureStore | StrPath,
    run: StrPath,
    *,
    progress: Progress = None,
    cut: str = "",
    pool: Literal["none", "avg"] = "none",
    views: int | None = None,
    solver: Literal["auto", "full", "reduced"] = "auto",
    rank: int | None = None,
    epochs: int = 20,
    batch_size: int = 20,
    units: int = 1024,
    dropout: float = 0.2,
    l2: float = 0.0,
    learning_rate: float = 0.0001,
    optimizer: Literal["rmsprop", "adam", "sgd"] = "rmsprop",
    momentum: float = 0.0,
    unfreeze_from: str = "none",
    fine_tune_epochs: int = 10,
    fine_tune_learning_rate: float = 1e-05,
    weights: StrPath = "",
    class_weight: Literal["none", "balanced"] = "none",
    patience: int = 0,
    repeats: int = 1,
    folds: int = 0,
    seed: int = 0,
    validation_split: float = 0.2,
    images: StrPath | None = None,
    no_report: bool = False,
    tensorboard: bool = False,
    overwrite: bool = False,
) -> Run:
    """Fit a head on stored features and keep it as a run, with its metrics and a report.

    A folder that holds this very run already is returned as it is. An earlier run of other options or pictures is
    kept beside it, under its name and date.

    Args:
        store: The feature store, or its path.
        run: Folder for the run.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        cut: Layer whose features to train on, if the store holds several.
        pool: avg trains on the mean of each channel of features that are stored whole. Default none.
        views: Stored views of each training picture to train on. Expects a whole number of at least 1 or None.
        solver: How the head is fitted: reduced is fast, full is Keras's fit on all inputs; auto chooses. Default
            auto.
        rank: Dimensions that the reduced solver keeps. Expects a whole number of at least 1 or None.
        epochs: Passes over the training pictures. Expects a whole number of at least 1. Default 20.
        batch_size: Pictures in one training step. Expects a whole number of at least 1. Default 20.
        units: Units of the hidden layer. Expects a whole number of at least 1. Default 1024.
        dropout: Share of hidden units dropped in training. Expects a number from 0.0 to 0.99. Default 0.2.
        l2: L2 penalty: weight of the sum of squared kernel weights in the loss. Expects a number of at least 0.0.
            Default 0.0.
        learning_rate: Learning rate of the optimizer. Default 0.0001.
        optimizer: Optimizer. Default rmsprop.
        momentum: Momentum of sgd. Expects a number from 0.0 to 0.999. Default 0.0.
        unfreeze_from: First backbone layer to fine-tune after the head, such as mixed6. none trains the head alone.
            Default none.
        fine_tune_epochs: Passes over the training pictures while fine-tuning. Expects a whole number of at least 1.
            Default 10.
        fine_tune_learning_rate: Learning rate of fine-tuning. Default 1e-05.
        weights: Weights file of the backbone for fine-tuning, if it was moved since extraction.
        class_weight: balanced gives every class the same total weight in the loss. Default none.
        patience: Stop after this many epochs without a lower validation loss and keep the best. 0 trains to the
            end. Expects a whole number of at least 0. Default 0.
        repeats: Number of fits with different seeds, for mean and standard deviation. Expects a whole number of at
            least 1. Default 1.
        folds: Number of folds for cross-validation. 0 does none. Expects a whole number of at least 0. Default 0.
        seed: Random seed of initial weights, order and dropout. Expects a whole number from 0 to 4294967295.
            Default 0.
        validation_split: Share of the pictures set aside for validation if there is no folder validation/. Expects
            a number from 0.01 to 0.9. Default 0.2.
        images: Folder of pictures that the store must have been made from.
        no_report: Write no report, and skip the evaluation for it. Default False.
        tensorboard: Write logs for TensorBoard too. Default False.
        overwrite: Fit again, and replace the run that is there. Default False.

    Returns:
        The run.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix.
    """

def sweep(
    store: FeatureStore | StrPath,
    out: StrPath,
    *,
    progress: Progress = None,
    cut: str | Sequence[str] = "",
    pool: Literal["none", "avg"] | Sequence[Literal["none", "avg"]] = "none",
    views: int | Sequence[int] | None = None,
    solver: Literal["auto", "full", "reduced"] | Sequence[Literal["auto", "full", "reduced"]] = "auto",
    rank: int | Sequence[int] | None = None,
    epochs: int | Sequence[int] = 20,
    batch_size: int | Sequence[int] = 20,
    units: int | Sequence[int] | None = None,
    dropout: float | Sequence[float] | None = None,
    l2: float | Sequence[float] = 0.0,
    learning_rate: float | Sequence[float] | None = None,
    optimizer: Literal["rmsprop", "adam", "sgd"] | Sequence[Literal["rmsprop", "adam", "sgd"]] = "rmsprop",
    momentum: float | Sequence[float] = 0.0,
    unfreeze_from: str | Sequence[str] = "none",
    fine_tune_epochs: int | Sequence[int] = 10,
    fine_tune_learning_rate: float | Sequence[float] = 1e-05,
    weights: StrPath | Sequence[StrPath] = "",
    class_weight: Literal["none", "balanced"] | Sequence[Literal["none", "balanced"]] = "none",
    patience: int | Sequence[int] = 0,
    repeats: int | Sequence[int] = 1,
    folds: int | Sequence[int] = 0,
    seed: int | Sequence[int] = 0,
    validation_split: float | Sequence[float] = 0.2,
    images: StrPath | Sequence[StrPath] | None = None,
    no_report: bool | Sequence[bool] = False,
    tensorboard: bool | Sequence[bool] = False,
    overwrite: bool | Sequence[bool] = False,
    tries: str | Sequence[str] | None = None,
    search: Literal["grid", "optuna"] = "grid",
    trials: int | None = None,
    metric: Literal["val_accuracy", "val_loss"] = "val_accuracy",
) -> Sweep:
    """Fit many heads on one extraction, side by side with simple baselines, and keep the best.

    Each option of a head takes one value, or a list of values to try, such as `dropout=[0, 0.2, 0.5]`.

    Args:
        store: The feature store, or its path.
        out: Folder for the runs, the table, the plot and the best run.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        cut: Layer whose features to train on, if the store holds several.
        pool: avg trains on the mean of each channel of features that are stored whole. Default none.
        views: Stored views of each training picture to train on. Expects a whole number of at least 1 or None.
        solver: How the head is fitted: reduced is fast, full is Keras's fit on all inputs; auto chooses. Default
            auto.
        rank: Dimensions that the reduced solver keeps. Expects a whole number of at least 1 or None.
        epochs: Passes over the training pictures. Expects a whole number of at least 1. Default 20.
        batch_size: Pictures in one training step. Expects a whole number of at least 1. Default 20.
        units: Units of the hidden layer. Expects a whole number of at least 1 or None.
        dropout: Share of hidden units dropped in training. Expects a number from 0.0 to 0.99 or None.
        l2: L2 penalty: weight of the sum of squared kernel weights in the loss. Expects a number of at least 0.0.
            Default 0.0.
        learning_rate: Learning rate of the optimizer.
        optimizer: Optimizer. Default rmsprop.
        momentum: Momentum of sgd. Expects a number from 0.0 to 0.999. Default 0.0.
        unfreeze_from: First backbone layer to fine-tune after the head, such as mixed6. none trains the head alone.
            Default none.
        fine_tune_epochs: Passes over the training pictures while fine-tuning. Expects a whole number of at least 1.
            Default 10.
        fine_tune_learning_rate: Learning rate of fine-tuning. Default 1e-05.
        weights: Weights file of the backbone for fine-tuning, if it was moved since extraction.
        class_weight: balanced gives every class the same total weight in the loss. Default none.
        patience: Stop after this many epochs without a lower validation loss and keep the best. 0 trains to the
            end. Expects a whole number of at least 0. Default 0.
        repeats: Number of fits with different seeds, for mean and standard deviation. Expects a whole number of at
            least 1. Default 1.
        folds: Number of folds for cross-validation. 0 does none. Expects a whole number of at least 0. Default 0.
        seed: Random seed of initial weights, order and dropout. Expects a whole number from 0 to 4294967295.
            Default 0.
        validation_split: Share of the pictures set aside for validation if there is no folder validation/. Expects
            a number from 0.01 to 0.9. Default 0.2.
        images: Folder of pictures that the store must have been made from.
        no_report: Write no report, and skip the evaluation for it. Default False.
        tensorboard: Write logs for TensorBoard too. Default False.
        overwrite: Fit again, and replace the run that is there. Default False.
        tries: Values to try for an option of training; with --search optuna also LOW..HIGH. Repeatable.
        search: grid fits every combination; optuna searches near the best so far. Default grid.
        trials: Number of heads that optuna tries. Expects a whole number of at least 1 or None.
        metric: Metric that the table is sorted by. Default val_accuracy.

    Returns:
        The sweep: its rows, and the best run.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix.
    """

def export(
    run: Run | StrPath,
    out: StrPath,
    *,
    progress: Progress = None,
    formats: str = "keras",
    store: StrPath = "",
    images: StrPath = "",
    weights: StrPath = "",
    check: int | None = 256,
    max_pixels: int = 89000000,
) -> ExportResult:
    """Stitch backbone and head into one Keras model that takes raw pixels, and check it on real pictures.

    Args:
        run: The run, or its path.
        out: Folder for model.keras and labels.txt.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        formats: Formats, comma-separated. keras is the only one. Default keras.
        store: Feature store of the run, if it was moved.
        images: Folder of the pictures, if it was moved.
        weights: Weights file of the backbone, if it was moved.
        check: Number of validation pictures that the model is checked on, from each class in proportion. Default
            256.
        max_pixels: Pictures with more pixels are refused, as in extraction. Expects a whole number of at least 1.
            Default 89000000.

    Returns:
        The files, and how far the model differs from its parts.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix; an earlier export stays.
    """

def predict(
    model: ExportResult | StrPath,
    files: StrPath | Iterable[StrPath],
    *,
    progress: Progress = None,
    batch_size: int = 32,
    max_pixels: int = 89000000,
) -> Predictions:
    """Classify pictures with an exported model.

    Args:
        model: What `export` returned, or the path of a model.keras that it wrote.
        files: Pictures, or folders of pictures.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        batch_size: Pictures in one batch. Expects a whole number of at least 1. Default 32.
        max_pixels: Pictures with more pixels are refused without decoding. Expects a whole number of at least 1.
            Default 89000000.

    Returns:
        A list with one prediction a picture; pictures that could not be used are in its `failed`.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix.
    """

def report(
    run: Run | StrPath,
    *,
    progress: Progress = None,
    test: bool = False,
    store: StrPath = "",
    images: StrPath = "",
    weights: StrPath = "",
) -> Report:
    """Write a run's report again, or evaluate the pictures in test/ as well.

    Args:
        run: The run, or its path.
        progress: True prints messages and progress; a function receives (stage, done, total, rate).
        test: Evaluate the pictures in test/ too. Default False.
        store: Feature store of the run, if it was moved.
        images: Folder of the pictures, if it was moved.
        weights: Weights file of the backbone, if it was moved.

    Returns:
        The report, which a notebook shows.

    Raises:
        UsageError: a wrong value.
        HeadstartError: anything else that the user can fix.
    """
