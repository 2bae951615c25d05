"""Command line of the overfitting story: the same head without and with dropout, side by side."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from base.command_line import run_app
from base.errors import HeadstartError, UsageError
from base.files import write_durably
from base.terminal import Console
from train_head.config import TrainConfig
from train_head.evaluation.uncertainty import describe_interval
from train_head.runs.record import refuse_foreign_run

COMPARISON_FILE, WITHOUT_DROPOUT, WITH_DROPOUT = "compare.png", "without-dropout", "with-dropout-"


@dataclass(frozen=True)
class CompareConfig(TrainConfig):
    """Which head to fit twice: every option of training, and dropout for the second of the two."""

    run: Annotated[Path, Option(help="Folder to make for both runs and the picture.")] = Path("compare")
    dropout: Annotated[float, Option(min=0.01, max=0.99, help="Of the second head; the first has none.")] = 0.5


def compare(config: CompareConfig, console: Console) -> Mapping[str, Any]:
    """Fit the same head without and with dropout from one store, and show how far each overfits."""
    from train_head.report.page import report_fitted_run
    from train_head.train import train_head

    results = {}
    for name, half in plan_halves(config).items():
        metrics = train_head(half, console)
        report_fitted_run(half, console)
        results[name] = {"run": str(half.run), **metrics, **measure_gap(metrics)}
    lines = [
        ("training accuracy", "train_accuracy", ".4f"),
        ("validation accuracy", "val_accuracy", ".4f"),
        ("gap", "accuracy_gap", "+.4f"),
        ("training loss", "train_loss", ".4f"),
        ("validation loss", "val_loss", ".4f"),
        ("gap", "loss_gap", "+.4f"),
    ]
    rows: list[tuple[str, ...]] = [("", *results)]
    rows += [(title, *(f"{result[key]:{form}}" for result in results.values())) for title, key, form in lines]
    rows.insert(3, ("its 95 % interval", *(describe_interval(result) for result in results.values())))
    console.show_table(f"the same head, twice, in {config.run}", rows)
    if not config.no_report:
        _draw(results, config.run / COMPARISON_FILE, console)
        console.say(f"learning curves side by side: {config.run / COMPARISON_FILE}")
    return {"comparison": results}


def plan_halves(config: CompareConfig) -> dict[str, TrainConfig]:
    """Check both trainings and their folders before either is fitted; fit and write nothing.

    Raises:
        UsageError, HeadstartError: one of them cannot be done, or a file in the folder is not a comparison's.
    """
    from train_head.prepare import holds_run, prepare_training

    out, picture, advice = config.run, config.run / COMPARISON_FILE, "Move it, or give another --run (RUN=)"
    if os.path.lexists(out) and not out.is_dir():
        raise UsageError(out, "a folder for both runs", "a file", "Give another --run (RUN=)")
    options = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    halves, shown = {}, f"{config.dropout:g}"
    for name, folder, dropout in (
        ("without dropout", WITHOUT_DROPOUT, 0.0),
        (f"with dropout {shown}", f"{WITH_DROPOUT}{shown}", config.dropout),
    ):
        halves[name] = TrainConfig(**{**options, "dropout": dropout, "run": out / folder})
        prepare_training(halves[name])
        if holds_run(out / folder):
            refuse_foreign_run(out / folder)
    if os.path.lexists(picture) and not (picture.is_file() and holds_run(out / WITHOUT_DROPOUT)):
        raise HeadstartError(picture, "a picture beside the runs of a comparison", "another file", advice)
    return halves


def measure_gap(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return how much higher accuracy is in training than in validation, and how much lower loss; dropout is off."""
    return {
        "accuracy_gap": metrics["train_accuracy"] - metrics["val_accuracy"],
        "loss_gap": metrics["val_loss"] - metrics["train_loss"],
    }


def _draw(results: Mapping[str, Mapping[str, Any]], path: Path, console: Console) -> None:
    from train_head.evaluation.plots import draw_comparison
    from train_head.runs.read import Run
    from train_head.runs.write import keep_going

    histories = {
        f"{name}: gap {result['accuracy_gap']:+.4f}": Run(Path(result["run"])).read_history()
        for name, result in results.items()
    }
    with keep_going(COMPARISON_FILE, console):
        picture = io.BytesIO()
        draw_comparison(histories, picture)
        if not path.is_file() or path.read_bytes() != picture.getvalue():
            write_durably(path, picture.getvalue())


def main(name: str) -> None:
    """Run the command under a name, and end the process."""
    run_app(compare, CompareConfig, name)


if __name__ == "__main__":
    main("python -m train_head.compare")
