"""Command line of stage two: `python -m train_head`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from features.command import run_app
from features.console import Console, format_seconds
from train_head.config import TrainConfig


def train(config: TrainConfig, console: Console) -> Mapping[str, Any]:
    """Fit a head on stored features: Flatten, Dense, Dropout, and a sigmoid (softmax above two classes)."""
    from train_head.train import train_head

    metrics = train_head(config, console)
    accuracy, guessing = metrics["val_accuracy"], metrics["largest_class_share"]
    time = format_seconds(metrics["seconds"])
    rows = [
        ("validation accuracy", f"{accuracy:.4f} (guessing the largest class: {guessing:.4f})"),
        ("validation loss", f"{metrics['val_loss']:.4f}"),
        ("training accuracy", f"{metrics['train_accuracy']:.4f}"),
        ("pictures", f"{metrics['num_train']:,} to train, {metrics['num_validation']:,} to validate"),
        ("time", f"{time} for {metrics['epochs']} epochs, solver {metrics['solver']}"),
    ]
    curves = config.run / "curves.png"
    if curves.is_file():
        rows.append(("learning curves", str(curves)))
    console.show_table(f"run {config.run}", rows)
    return metrics


if __name__ == "__main__":
    run_app(train, TrainConfig, "python -m train_head")
