"""Options of training, export, reports and prediction, shared by the command line and the Python API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from base.cluster import LOCAL
from base.options import (
    feature_option,
    head_option,
    moved_option,
    place_option,
    speed_option,
    tuning_option,
    validation_option,
)
from base.urls import Location
from features.options import VALIDATION_SHARE, Pool
from features.presets import PRESETS, PresetName

MAX_PIXELS = 89_000_000
"""Default limit on the number of pixels in a picture; the same as in extraction."""


class SolverName(StrEnum):
    """Name of a solver."""

    AUTO = "auto"
    FULL = "full"
    REDUCED = "reduced"
    RIDGE = "ridge"


class OptimizerName(StrEnum):
    """Name of a Keras optimizer."""

    RMSPROP = "rmsprop"
    ADAM = "adam"
    SGD = "sgd"


class SplitName(StrEnum):
    """Rule that splits pictures into training and validation if no folder validation/ exists."""

    CONTENT = "content"
    GROUP = "group"


class ClassWeight(StrEnum):
    """Weighting of the classes in the loss."""

    NONE = "none"
    BALANCED = "balanced"


@dataclass(frozen=True)
class StoreOption:
    """The option `store`, which comes first in every command that fits heads."""

    store: Annotated[Path, place_option(help="Folder of the feature store.")]


NO_FINE_TUNING = "none"
"""Value of `unfreeze_from` that keeps the backbone frozen."""


@dataclass(frozen=True)
class HeadConfig:
    """Options of a head and its fit, shared by `train` and `sweep`."""

    preset: Annotated[
        PresetName,
        feature_option(
            help="Set several options at once, for a store that was extracted with the same preset. Options that are "
            "given as well keep their values."
        ),
    ] = PresetName.COURSE
    cut: Annotated[
        str,
        feature_option(
            help="Cut layer to train on, if the store contains features of several; or several layers separated by "
            "commas or plus signs, whose pooled features are scaled and joined.",
            metavar="LAYER,…",
        ),
    ] = ""
    pool: Annotated[Pool, feature_option(help="avg trains on the mean of each channel of the stored features.")] = (
        Pool.NONE
    )
    views: Annotated[
        int | None,
        feature_option(min=1, help="Number of stored views of each training picture to train on.", show_default="all"),
    ] = None
    solver: Annotated[
        SolverName,
        head_option(
            help="Solver. full trains on all inputs with Keras; reduced trains on principal directions of the training "
            "features and is much faster; auto is reduced; ridge fits a linear head by least squares, without epochs."
        ),
    ] = SolverName.AUTO
    rank: Annotated[
        int | None,
        head_option(
            min=1,
            help="Number of dimensions that the solvers reduced and ridge keep.",
            show_default="512, or fewer for fewer pictures or inputs; all for ridge with up to 4,096 of either",
        ),
    ] = None
    epochs: Annotated[int, head_option(min=1, help="Number of passes over the training pictures.")] = 20
    batch_size: Annotated[int, head_option(min=1, help="Number of pictures in a training step.")] = 20
    units: Annotated[int, head_option(min=0, help="Number of units in the hidden layer. 0 fits a linear head.")] = 1024
    dropout: Annotated[
        float, head_option(min=0.0, max=0.99, help="Fraction of the hidden units dropped in training.")
    ] = 0.2
    l2: Annotated[
        float, head_option(min=0.0, help="L2 penalty: weight of the sum of squared kernel weights in the loss.")
    ] = 0.0
    learning_rate: Annotated[float, head_option(help="Learning rate of the optimizer.")] = 1e-4
    optimizer: Annotated[OptimizerName, head_option(help="Optimizer.")] = OptimizerName.RMSPROP
    momentum: Annotated[float, head_option(min=0.0, max=0.999, help="Momentum, for the optimizer sgd only.")] = 0.0
    unfreeze_from: Annotated[
        str,
        tuning_option(
            help="First backbone layer to fine-tune once the head is fitted, such as mixed6. none fits only the head."
        ),
    ] = NO_FINE_TUNING
    fine_tune_epochs: Annotated[
        int, tuning_option(min=1, help="Number of passes over the training pictures during fine-tuning.")
    ] = 10
    fine_tune_learning_rate: Annotated[float, tuning_option(help="Learning rate of fine-tuning.")] = 1e-5
    weights: Annotated[
        str,
        tuning_option(
            help="Weights file of the backbone for fine-tuning, if it has moved since extraction.", metavar="FILE"
        ),
    ] = ""
    class_weight: Annotated[
        ClassWeight, head_option(help="Class weights in the loss. balanced gives every class the same total weight.")
    ] = ClassWeight.NONE
    patience: Annotated[
        int,
        head_option(
            min=0,
            help="Stop after this many epochs without a lower validation loss, and keep the best epoch. "
            "0 runs all epochs.",
        ),
    ] = 0
    repeats: Annotated[
        int,
        validation_option(
            min=1, help="Number of fits with different seeds, to report the mean and standard deviation."
        ),
    ] = 1
    folds: Annotated[
        int, validation_option(min=0, help="Number of cross-validation folds. 0 disables cross-validation.")
    ] = 0
    seed: Annotated[
        int, head_option(min=0, max=2**32 - 1, help="Random seed for initial weights, order and dropout.")
    ] = 0
    validation_split: Annotated[
        float,
        validation_option(
            min=0.01, max=0.9, help="Fraction of the pictures set aside for validation if no folder validation/ exists."
        ),
    ] = VALIDATION_SHARE
    split: Annotated[
        SplitName,
        validation_option(
            help="Split into training and validation if no folder validation/ exists. content splits by content hash; "
            "group also keeps near-duplicates together."
        ),
    ] = SplitName.CONTENT
    false_alarms: Annotated[
        float,
        validation_option(
            min=0.0001,
            max=0.5,
            help="Share of pictures like the training pictures that may be classified as none of these.",
        ),
    ] = 0.01
    distribute: Annotated[
        str,
        speed_option(
            help="Where to reduce the features of more than 4,096 pictures: local is this process; ray uses all cores "
            "of this computer; auto or an address such as ray://HOST:10001 uses the workers of a Ray cluster. The head "
            "is the same. Needs the package extra ray.",
            metavar="local|ray|ADDRESS",
        ),
    ] = LOCAL
    images: Annotated[
        Location | None,
        place_option(
            help="Folder of pictures. Training fails if the store was extracted from another one.", metavar="DIR|URL"
        ),
    ] = None
    no_report: Annotated[bool, place_option("--no-report", help="Skip the evaluation, the plots and the report.")] = (
        False
    )
    tensorboard: Annotated[bool, place_option("--tensorboard", help="Also write TensorBoard logs.")] = False
    overwrite: Annotated[
        bool,
        place_option(
            "--overwrite",
            help="Replace an earlier run with other options or pictures instead of keeping it. "
            "Except in a sweep, also fit an equal run again.",
        ),
    ] = False

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {name: preset.train for name, preset in PRESETS.items()}


@dataclass(frozen=True)
class _RunOption(StoreOption):
    run: Annotated[Path, place_option(help="Folder for the fitted head, its metrics and its report.")]


@dataclass(frozen=True)
class TrainConfig(HeadConfig, _RunOption):
    """Options of `train`."""


@dataclass(frozen=True)
class ReportConfig:
    """Options of `report`."""

    run: Annotated[Path, place_option(help="Folder of the run.")]
    test: Annotated[bool, place_option("--test", help="Also evaluate the pictures in test/.")] = False
    store: Annotated[str, moved_option(help="Feature store of the run, if it has moved.", metavar="DIR")] = ""
    images: Annotated[str, moved_option(help="Folder of the pictures, if it has moved.", metavar="DIR|URL")] = ""
    weights: Annotated[str, moved_option(help="Weights file of the backbone, if it has moved.", metavar="FILE")] = ""
