"""Options of training, export, report and prediction, for the command line and the Python API. A run keeps its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from features.schema import Pool
from features.split import VALIDATION_SHARE

MAX_PIXELS = 89_000_000
"""Default limit of a picture's size, the same as in extraction."""


class SolverName(StrEnum):
    """Solver of a head."""

    AUTO = "auto"
    FULL = "full"
    REDUCED = "reduced"


class OptimizerName(StrEnum):
    """Optimizer of Keras."""

    RMSPROP = "rmsprop"
    ADAM = "adam"
    SGD = "sgd"


class ClassWeight(StrEnum):
    """Weight of each picture in the loss."""

    NONE = "none"
    BALANCED = "balanced"


@dataclass(frozen=True)
class StoreOption:
    """The store, the first option of every command that fits heads."""

    store: Annotated[Path, Option(help="Folder of the feature store.")]


NO_FINE_TUNING = "none"
"""Value of `unfreeze_from` that leaves the backbone frozen."""


@dataclass(frozen=True)
class HeadConfig:
    """Options of a head and its fit, common to `train` and `sweep`."""

    cut: Annotated[str, Option(help="Layer whose features to train on, if the store holds several.")] = ""
    pool: Annotated[Pool, Option(help="avg trains on the mean of each channel of features that are stored whole.")] = (
        Pool.NONE
    )
    views: Annotated[
        int | None,
        Option(min=1, help="Stored views of each training picture to train on.", show_default="as many as are stored"),
    ] = None
    solver: Annotated[
        SolverName,
        Option(help="How the head is fitted: reduced is fast, full is Keras's fit on all inputs; auto chooses."),
    ] = SolverName.AUTO
    rank: Annotated[
        int | None,
        Option(
            min=1,
            help="Dimensions that the reduced solver keeps.",
            show_default="512, or as many as there are pictures",
        ),
    ] = None
    epochs: Annotated[int, Option(min=1, help="Passes over the training pictures.")] = 20
    batch_size: Annotated[int, Option(min=1, help="Pictures in one training step.")] = 20
    units: Annotated[int, Option(min=1, help="Units of the hidden layer.")] = 1024
    dropout: Annotated[float, Option(min=0.0, max=0.99, help="Share of hidden units dropped in training.")] = 0.2
    l2: Annotated[
        float, Option(min=0.0, help="L2 penalty: weight of the sum of squared kernel weights in the loss.")
    ] = 0.0
    learning_rate: Annotated[float, Option(help="Learning rate of the optimizer.")] = 1e-4
    optimizer: Annotated[OptimizerName, Option(help="Optimizer.")] = OptimizerName.RMSPROP
    momentum: Annotated[float, Option(min=0.0, max=0.999, help="Momentum of sgd.")] = 0.0
    unfreeze_from: Annotated[
        str,
        Option(help="First backbone layer to fine-tune after the head, such as mixed6. none trains the head alone."),
    ] = NO_FINE_TUNING
    fine_tune_epochs: Annotated[int, Option(min=1, help="Passes over the training pictures while fine-tuning.")] = 10
    fine_tune_learning_rate: Annotated[float, Option(help="Learning rate of fine-tuning.")] = 1e-5
    weights: Annotated[
        str,
        Option(help="Weights file of the backbone for fine-tuning, if it was moved since extraction.", metavar="FILE"),
    ] = ""
    class_weight: Annotated[
        ClassWeight, Option(help="balanced gives every class the same total weight in the loss.")
    ] = ClassWeight.NONE
    patience: Annotated[
        int,
        Option(
            min=0,
            help="Stop after this many epochs without a lower validation loss and keep the best. 0 trains to the end.",
        ),
    ] = 0
    repeats: Annotated[
        int, Option(min=1, help="Number of fits with different seeds, for mean and standard deviation.")
    ] = 1
    folds: Annotated[int, Option(min=0, help="Number of folds for cross-validation. 0 does none.")] = 0
    seed: Annotated[int, Option(min=0, max=2**32 - 1, help="Random seed of initial weights, order and dropout.")] = 0
    validation_split: Annotated[
        float,
        Option(
            min=0.01, max=0.9, help="Share of the pictures set aside for validation if there is no folder validation/."
        ),
    ] = VALIDATION_SHARE
    images: Annotated[
        Path | None, Option(help="Folder of pictures that the store must have been made from.", metavar="DIR")
    ] = None
    no_report: Annotated[bool, Option("--no-report", help="Write no report, and skip the evaluation for it.")] = False
    tensorboard: Annotated[bool, Option("--tensorboard", help="Write logs for TensorBoard too.")] = False
    overwrite: Annotated[bool, Option("--overwrite", help="Fit again, and replace the run that is there.")] = False


@dataclass(frozen=True)
class _RunOption(StoreOption):
    run: Annotated[Path, Option(help="Folder for the fitted head, its metrics and its report.")]


@dataclass(frozen=True)
class TrainConfig(HeadConfig, _RunOption):
    """Options of `train`."""


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
    """Options of `export`."""

    run: Annotated[Path, Option(help="Folder of the run.")]
    out: Annotated[Path, Option(help="Folder for model.keras and labels.txt.")]
    formats: Annotated[str, Option(help="Formats, comma-separated. keras is the only one.")] = "keras"
    store: Annotated[str, Option(help="Feature store of the run, if it was moved.", metavar="DIR")] = ""
    images: Annotated[str, Option(help="Folder of the pictures, if it was moved.", metavar="DIR")] = ""
    weights: Annotated[str, Option(help="Weights file of the backbone, if it was moved.", metavar="FILE")] = ""
    check: Annotated[
        int | None,
        Option(
            parser=parse_count,
            metavar="N|all",
            help="Number of validation pictures that the model is checked on, from each class in proportion.",
        ),
    ] = 256
    max_pixels: Annotated[int, Option(min=1, help="Pictures with more pixels are refused, as in extraction.")] = (
        MAX_PIXELS
    )


@dataclass(frozen=True)
class ReportConfig:
    """Options of `report`."""

    run: Annotated[Path, Option(help="Folder of the run.")]
    test: Annotated[bool, Option("--test", help="Evaluate the pictures in test/ too.")] = False
    store: Annotated[str, Option(help="Feature store of the run, if it was moved.", metavar="DIR")] = ""
    images: Annotated[str, Option(help="Folder of the pictures, if it was moved.", metavar="DIR")] = ""
    weights: Annotated[str, Option(help="Weights file of the backbone, if it was moved.", metavar="FILE")] = ""


@dataclass(frozen=True)
class PredictConfig:
    """Options of `predict`."""

    files: Annotated[list[Path], Argument(help="Pictures, or folders of pictures.", metavar="FILE_OR_DIR...")]
    model: Annotated[Path, Option(help="The model.keras that export wrote.")]
    batch_size: Annotated[int, Option(min=1, help="Pictures in one batch.")] = 32
    max_pixels: Annotated[int, Option(min=1, help="Pictures with more pixels are refused without decoding.")] = (
        MAX_PIXELS
    )
