"""The options of stage two; the command lines are made from these, and a run keeps its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from features.schema import Pool

MAX_PIXELS = 89_000_000
"""As in extraction, whose options stage two does not import."""


class SolverName(StrEnum):
    """How a head is fitted."""

    AUTO = "auto"
    FULL = "full"
    REDUCED = "reduced"


class OptimizerName(StrEnum):
    """Keras's optimisers."""

    RMSPROP = "rmsprop"
    ADAM = "adam"
    SGD = "sgd"


class ClassWeight(StrEnum):
    """How much a picture counts in the loss."""

    NONE = "none"
    BALANCED = "balanced"


@dataclass(frozen=True)
class StorePlace:
    """Where the features are; every command that fits heads begins with it."""

    store: Annotated[Path, Option(help="The feature store that `python -m extract` made.")]


NOTHING = "none"
"""Of the backbone is trained again."""


@dataclass(frozen=True)
class HeadConfig:
    """Which head to fit, and how: what a training and a sweep of many have in common."""

    cut: Annotated[str, Option(help="Whose features to train on, where the store holds several cut layers.")] = ""
    pool: Annotated[Pool, Option(help="avg trains on each channel's mean, of features that are stored whole.")] = (
        Pool.NONE
    )
    views: Annotated[
        int | None,
        Option(min=1, help="Views of each training picture to train on.", show_default="as many as are stored"),
    ] = None
    solver: Annotated[SolverName, Option(help="auto chooses, and says why.")] = SolverName.AUTO
    rank: Annotated[
        int | None,
        Option(
            min=1, help="Inputs that the reduced solver keeps.", show_default="512, or as many as there are pictures"
        ),
    ] = None
    epochs: Annotated[int, Option(min=1, help="Passes over the training pictures.")] = 20
    batch_size: Annotated[int, Option(min=1, help="Pictures for each step.")] = 20
    units: Annotated[int, Option(min=1, help="Units of the hidden layer.")] = 1024
    dropout: Annotated[float, Option(min=0.0, max=0.99, help="Share of hidden units dropped in training.")] = 0.2
    l2: Annotated[float, Option(min=0.0, help="Weight of the kernels' sum of squares in the loss.")] = 0.0
    learning_rate: Annotated[float, Option(help="The optimizer's learning rate.")] = 1e-4
    optimizer: Annotated[OptimizerName, Option(help="The optimizer.")] = OptimizerName.RMSPROP
    momentum: Annotated[float, Option(min=0.0, max=0.999, help="Of sgd: share of the last change kept.")] = 0.0
    unfreeze_from: Annotated[
        str, Option(help="First layer of the backbone to train again, after the head alone; none: only the head.")
    ] = NOTHING
    fine_tune_epochs: Annotated[int, Option(min=1, help="Passes with those layers.")] = 10
    fine_tune_learning_rate: Annotated[float, Option(help="The learning rate then.")] = 1e-5
    weights: Annotated[str, Option(help="For those layers: the store's weights file, where it was moved.")] = ""
    class_weight: Annotated[
        ClassWeight, Option(help="balanced: each class counts the same, however few its pictures.")
    ] = ClassWeight.NONE
    patience: Annotated[
        int, Option(min=0, help="Epochs without a better validation loss before stopping; the best is kept. 0: never.")
    ] = 0
    repeats: Annotated[int, Option(min=1, help="Fits with as many seeds, for mean and standard deviation.")] = 1
    folds: Annotated[int, Option(min=0, help="Cross-validates as well, each picture held out once. 0: not.")] = 0
    seed: Annotated[
        int, Option(min=0, max=2**32 - 1, help="Of initial weights, order and dropout: same seed, same head.")
    ] = 0
    validation_split: Annotated[
        float, Option(min=0.01, max=0.9, help="Share set aside where the folders have no validation/.")
    ] = 0.2
    images: Annotated[
        Path | None, Option(help="Refuse a store that was not made from this folder of pictures.", metavar="DIR")
    ] = None
    no_report: Annotated[bool, Option("--no-report", help="Leave out the report and the numbers for it.")] = False
    tensorboard: Annotated[bool, Option("--tensorboard", help="Write the history for TensorBoard too.")] = False
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a run of other options or pictures.")] = False


@dataclass(frozen=True)
class _RunPlace(StorePlace):
    run: Annotated[Path, Option(help="Folder to make for the fitted head, its metrics and its report.")]


@dataclass(frozen=True)
class TrainConfig(HeadConfig, _RunPlace):
    """Which head to fit, on which features, and how."""


def parse_count(text: str) -> int | None:
    """Parse a number above zero, or `all`, which gives None."""
    # Defaults come as they are.
    if str(text) == "all":
        return None
    if not str(text).isdecimal() or int(text) < 1:
        raise BadParameter(f"expected a number above zero, or all, got {text!r}.")
    return int(text)


@dataclass(frozen=True)
class ExportConfig:
    """Which run to export, and where to."""

    run: Annotated[Path, Option(help="The run that `python -m train_head` made.")]
    out: Annotated[Path, Option(help="Folder for model.keras and labels.txt.")]
    formats: Annotated[str, Option(help="Comma-separated; keras is the one there is.")] = "keras"
    store: Annotated[str, Option(help="The run's store, where it was moved.")] = ""
    images: Annotated[str, Option(help="The folder of pictures, where it was moved.")] = ""
    weights: Annotated[str, Option(help="The store's weights file, where it was moved.")] = ""
    check: Annotated[
        int | None,
        Option(
            parser=parse_count,
            metavar="N|all",
            help="Validation pictures to check the model on, of each class in proportion.",
        ),
    ] = 256
    max_pixels: Annotated[int, Option(min=1, help="Of a picture to check the export on, as it was extracted with.")] = (
        MAX_PIXELS
    )


@dataclass(frozen=True)
class ReportConfig:
    """Of which run to write the report."""

    run: Annotated[Path, Option(help="The run that `python -m train_head` made.")]
    test: Annotated[bool, Option("--test", help="Judge the head on the pictures in test/ as well.")] = False
    store: Annotated[str, Option(help="The run's store, where it was moved.")] = ""
    images: Annotated[str, Option(help="The folder of pictures, where it was moved.")] = ""
    weights: Annotated[str, Option(help="The store's weights file, where it was moved.")] = ""


@dataclass(frozen=True)
class PredictConfig:
    """Which model to use, on which pictures."""

    files: Annotated[list[Path], Argument(help="Pictures, or folders of them.", metavar="FILE_OR_DIR...")]
    model: Annotated[Path, Option(help="OUT/model.keras, as `python -m train_head.export` made it.")]
    batch_size: Annotated[int, Option(min=1, help="Pictures of one size that the model sees at once.")] = 32
    max_pixels: Annotated[int, Option(min=1, help="A picture that declares more is not decoded.")] = MAX_PIXELS
