"""Small sweeps, their rows, and a record of the fitted heads."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.synthetic import FINGERPRINT, draw_features, list_paths, make_store
from tests.train_head.training import SMALL_FIT
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.reduced import fit_reduced
from train_head.sweep.config import SweepConfig
from train_head.sweep.rows import UNSCORED, Row, Score, Status

PATHS = list_paths({"train/cats": 6, "train/dogs": 6, "validation/cats": 4, "validation/dogs": 4})
FOUR = ("units=4,8", "dropout=0.0,0.5")
FOUR_NAMES = [f"units-{units}_dropout-{dropout}" for units in (4, 8) for dropout in (0.0, 0.5)]
SHAPES = {"mixed5": (2, 2, 3), "mixed7": (2, 2, 4)}


@dataclass(frozen=True)
class Swept:
    """Sweep that was run, with its result."""

    config: SweepConfig
    result: Mapping[str, Any]


def make_cuts(folder: Path) -> Path:
    """Make a folder with the stores of two cuts of the same pictures."""
    for cut, shape in SHAPES.items():
        fingerprint = replace(FINGERPRINT, cut=cut)
        make_store(folder / cut, PATHS, features=draw_features(PATHS, shape), fingerprint=fingerprint)
    return folder


def make_sweep(store: FeatureStore | Path, out: Path, *tries: str, **options: Any) -> SweepConfig:
    """Make the options of a sweep with short fits of small heads."""
    fit = SMALL_FIT | {"epochs": 3} | options
    return SweepConfig(store if isinstance(store, Path) else store.path, out, **({"tries": list(tries)} | fit))


def make_row(
    name: str, value: float | None, loss: float | None = 0.5, status: Status = Status.DONE, **values: Any
) -> Row:
    """Make a row with a standard error of 0.02 and an interval of ± 0.1; None is a head that was not scored.

    A baseline has no run.
    """
    score = UNSCORED if value is None else Score(value, value - 0.1, value + 0.1, 0.02)
    run = "" if status is Status.BASELINE else f"trials/{name}"
    return Row(name, status, values, score, value, loss, 3, 0.5, run)


def record_fits(monkeypatch: pytest.MonkeyPatch, interrupt_at: int = 0) -> list[str]:
    """Return a list to which each fit of the reduced solver adds its run name; interrupt fit number `interrupt_at`."""
    fitted: list[str] = []

    def fit(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
        fitted.append(problem.config.run.name)
        if len(fitted) == interrupt_at:
            raise KeyboardInterrupt
        return fit_reduced(problem, checkpoint, console)

    monkeypatch.setattr("train_head.solvers.reduced.fit_reduced", fit)
    return fitted


@contextmanager
def without_ridge() -> Iterator[None]:
    """Leave the ridge heads out of the baselines, so that one of the small heads is the best."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_head.sweep.plan.plan_baselines", lambda *_: [])
        yield


def read_table(out: Path) -> list[dict[str, str]]:
    """Read sweep.csv as text."""
    with (out / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))
