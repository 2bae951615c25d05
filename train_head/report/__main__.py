"""Command line of the report: `python -m train_head.report`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import run_app
from base.terminal import Console
from train_head.config import ReportConfig


def report(config: ReportConfig, console: Console) -> Mapping[str, Any]:
    """Write a run's report again, or with the final number on the pictures in test/."""
    from train_head.evaluation.uncertainty import Interval, Selection, format_share
    from train_head.report.page import report_run
    from train_head.report.sources import read_evaluation, read_test
    from train_head.runs.read import Run

    path = report_run(config, console)
    run = Run(config.run)
    evaluation, test = read_evaluation(run), read_test(run)
    choice = Selection.read(run.read_metrics()).describe()
    chosen = f", for {choice}, chosen by these pictures" if choice else ""
    rows = []
    for side, found, note in (("validation", evaluation, chosen), ("test", test, "")):
        if found:
            interval = Interval(*found["accuracy_interval"]).format()
            rows.append((f"{side} accuracy", f"{format_share(found['accuracy'])} (95 % interval {interval}{note})"))
    console.show_table(f"run {config.run}", [*rows, ("report", str(path))])
    return {"report": str(path), "evaluation": evaluation, "test": test}


if __name__ == "__main__":
    run_app(report, ReportConfig, "python -m train_head.report")
