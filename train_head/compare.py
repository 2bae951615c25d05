"""Command line of the overfitting story: the same head without and with dropout, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from features.command import run_app
from features.console import Console
from features.errors import UsageError
from train_head.config import TrainConfig
from train_head.uncertainty import describe_interval

PICTURE_FILE = "compare.png"


@dataclass(frozen=True)
class CompareConfig(TrainConfig):
    """Which head to fit twice: every option of training, and dropout for the second of the two."""

    run: Annotated[Path, Option(help="Folder to make for both runs and the picture.")] = Path("compare")
    dropout: Annotated[float, Option(min=0.01, max=0.99, help="Of the second head; the first has none.")] = 0.5


def compare(config: CompareConfig, console: Console) -> Mapping[str, Any]:
    """Fit the same head without and with dropout from one store, and show how far each overfits."""
    from train_head.report.page import report_run
    from train_head.train import train_head

    if config.run.is_file():
        raise UsageError(config.run, "a folder for both runs", "a file", "Give another --run (RUN=)")
    results: dict[str, dict[str, Any]] = {}
    for name, dropout in (("without dropout", 0.0), (f"with dropout {config.dropout:g}", config.dropout)):
        options = asdict(config) | {"dropout": dropout, "run": config.run / name.replace(" ", "-")}
        head = TrainConfig(**options)
        metrics = train_head(head, console)
        report_run(head, console)
        results[name] = {"run": str(options["run"]), **metrics, **measure_gap(metrics)}
    if not config.no_report:
        from train_head.report.plots import draw_comparison
        from train_head.run import Run

        histories = {name: Run(Path(result["run"])).read_history() for name, result in results.items()}
        titles = {name: f"{name}: gap {result['accuracy_gap']:+.4f}" for name, result in results.items()}
        draw_comparison({titles[name]: history for name, history in histories.items()}, config.run / PICTURE_FILE)
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
        console.say(f"learning curves side by side: {config.run / PICTURE_FILE}")
    return {"comparison": results}


def measure_gap(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Measures how much better a head is on what it has seen; dropout is off on both sides.

    Returns:
        How much higher its accuracy is in training than in validation, and how much lower its loss.
    """
    return {
        "accuracy_gap": metrics["train_accuracy"] - metrics["val_accuracy"],
        "loss_gap": metrics["val_loss"] - metrics["train_loss"],
    }


if __name__ == "__main__":
    run_app(compare, CompareConfig, "python -m train_head.compare")
