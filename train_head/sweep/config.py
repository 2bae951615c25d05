"""Options of a sweep: the options of training, the values to try, and the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from base.options import head_option, place_option, search_option
from train_head.config import HeadConfig, StoreOption, TrainConfig

TRIALS_FOLDER, STUDY_FILE = "trials", "optuna.journal"
DEFAULT_TRIALS = 40
OPTION = "`out` folder"
ADVICE = f"Move it, or give another {OPTION}"
"""Advice for a file that has the name of a sweep's file but was not written by a sweep."""


class SearchName(StrEnum):
    """Strategy for choosing the heads to fit."""

    GRID = "grid"
    OPTUNA = "optuna"


class MetricName(StrEnum):
    """Metric for ranking heads."""

    VAL_ACCURACY = "val_accuracy"
    VAL_LOSS = "val_loss"


@dataclass(frozen=True)
class _SweepPlace(StoreOption):
    out: Annotated[Path, place_option(help="Folder for the runs, the table, the plot and the best run.")]


@dataclass(frozen=True)
class SweepConfig(HeadConfig, _SweepPlace):
    """Options of `sweep`."""

    # None means that the user set no value: a sweep without --try then tries `space.DEFAULT_AXES`.
    units: Annotated[
        int | None, head_option(min=0, help="Units of the hidden layer; 0 for none.", show_default="256 and 1024")
    ] = None  # type: ignore[assignment]
    dropout: Annotated[
        float | None,
        head_option(min=0.0, max=0.99, help="Share of hidden units dropped in training.", show_default="0.2 and 0.5"),
    ] = None  # type: ignore[assignment]
    learning_rate: Annotated[
        float | None, head_option(help="Learning rate of the optimizer.", show_default="3e-5, 1e-4 and 3e-4")
    ] = None  # type: ignore[assignment]

    tries: Annotated[
        list[str] | None,
        search_option(
            "--try",
            metavar="NAME=VALUE,VALUE",
            help="Values to try for an option of training; with --search optuna also LOW..HIGH. Repeatable.",
            show_default="all stored cuts; two values of units, two of dropout, three of learning rate",
        ),
    ] = None
    search: Annotated[
        SearchName, search_option(help="grid fits all combinations; optuna searches near the best heads so far.")
    ] = SearchName.GRID
    trials: Annotated[
        int | None, search_option(min=1, help="Number of heads that optuna fits.", show_default=str(DEFAULT_TRIALS))
    ] = None
    metric: Annotated[MetricName, search_option(help="Metric that the table is sorted by.")] = MetricName.VAL_ACCURACY

    def make_train_config(self, name: str, values: Mapping[str, Any]) -> TrainConfig:
        """Make the options of training for one head.

        Args:
            name: name of the folder of its run.
            values: options that replace those of the sweep.
        """
        given = {field.name: getattr(self, field.name) for field in fields(HeadConfig)}
        options: dict[str, Any] = {field.name: field.default for field in fields(HeadConfig)}
        options |= {name: value for name, value in given.items() if value is not None}
        options |= {"store": self.store, "no_report": True, "overwrite": False, **values}
        return TrainConfig(run=self.out / TRIALS_FOLDER / name, **options)
