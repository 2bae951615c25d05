"""Command line of the report: `python -m train_head.report`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import run_app
from base.terminal import Console
from train_head.config import ReportConfig


def report(config: ReportConfig, console: Console) -> Mapping[str, Any]:
    """Write a run's report again; with --test, first evaluate the head on the pictures in test/.

    Examples:
        headstart report --run work/run
        headstart report --run work/run --test
    """
    from train_head.evaluation.uncertainty import Interval, describe_interval, format_share, name_accuracy
    from train_head.report.page import report_run
    from train_head.report.sources import read_evaluation, read_test
    from train_head.runs.read import Run

    path = report_run(config, console)
    run = Run(config.run)
    evaluation, test = read_evaluation(run), read_test(run)
    accuracy = name_accuracy(is_multi_label=run.is_multi_label)
    rows = [(f"validation {accuracy}", evaluation["accuracy"], describe_interval(run.read_metrics()))]
    if test:
        rows.append((f"test {accuracy}", test["accuracy"], Interval(*test["accuracy_interval"]).format()))
    for part, found in (("validation", evaluation), ("test", test or {})):
        if interval := found.get("mean_average_precision_interval"):
            mean = found["mean_average_precision"]
            rows.append((f"{part} mean average precision", mean, Interval(*interval).format()))
    shown = [(title, f"{format_share(share)} (95% interval {interval})") for title, share, interval in rows]
    console.show_table(f"run {config.run}", [*shown, ("report", str(path))])
    return {"report": str(path), "evaluation": evaluation, "test": test}


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(report, ReportConfig, name)


if __name__ == "__main__":
    main("python -m train_head.report")
