"""Command line of stage two: `python -m train_head`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from base.command_line import run_app
from base.system import read_process_age
from base.terminal import Console, format_seconds
from train_head.config import TrainConfig


def train(config: TrainConfig, console: Console, started: float | None = None) -> Mapping[str, Any]:
    """Fit a head on stored features: Flatten, Dense, Dropout and a sigmoid output (softmax above two classes).

    Args:
        config: the options.
        console: output of messages and tables.
        started: `time.monotonic()` at the start of the reported duration; by default the start of this process.

    Returns:
        The metrics of the run.

    Examples:
        headstart train --store work/store --run work/run
        headstart train --store work/store --run work/run-dropout --dropout 0.5 --epochs 40
        headstart train --store work/store --run work/run-ridge --solver ridge --folds 5
    """
    from train_head.evaluation.uncertainty import Interval, describe_all_fits, describe_results, name_accuracy
    from train_head.report.hints import describe_next_step
    from train_head.report.page import report_fitted_run
    from train_head.runs.read import Run
    from train_head.solvers.history import PartlyDivergedError
    from train_head.train import train_head

    try:
        metrics = train_head(config, console, time.monotonic() - read_process_age() if started is None else started)
    except PartlyDivergedError:
        report_fitted_run(config, console)
        raise
    report = report_fitted_run(config, console)
    accuracy = name_accuracy(is_multi_label=bool(metrics.get("is_multi_label")))
    kept = f", epoch {metrics['kept_epoch']} kept" if config.patience else ""
    ridge = metrics.get("ridge")
    fit = f"{metrics['epochs']}, solver {metrics['solver']}{kept}"
    results = [*describe_results(metrics), *describe_all_fits(metrics)]
    rows = [
        *results,
        ("validation loss", f"{metrics['val_loss']:.4f}"),
        (f"training {accuracy}", f"{metrics['train_accuracy']:.4f}, loss {metrics['train_loss']:.4f}"),
        ("pictures", f"{metrics['num_train']:,} training, {metrics['num_validation']:,} validation"),
        ("solver", f"ridge, penalty {ridge['penalty']:.3g}") if ridge else ("epochs", fit),
        (f"time to validation {accuracy}", format_seconds(metrics["seconds"])),
    ]
    if ridge:
        interval = Interval(*ridge["leave_one_out_interval"]).format()
        text = f"{ridge['leave_one_out_accuracy']:.4f} (95% confidence interval {interval})"
        rows.insert(len(results), (f"leave-one-out {accuracy}", f"{text}, on the training pictures"))
    run = Run(config.run)
    if run.weak_weights:
        rows.append(("weights", run.weak_weights))
    if report:
        rows.append(("report", str(report)))
    console.show_table(f"run {config.run}", rows)
    if line := describe_next_step(metrics, run.history, run.options, config, run.locate_images()):
        console.info(line)
    return metrics


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(train, TrainConfig, name)


if __name__ == "__main__":
    main("python -m train_head")
