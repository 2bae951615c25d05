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
    from train_head.report.final import score_test
    from train_head.report.page import read_evaluation, read_test, write_report
    from train_head.report.sources import load_sources
    from train_head.runs.record import REPORT_FILE

    sources = load_sources(config)
    if config.test:
        sources = score_test(sources, console, config.weights)
        path = sources.run.folder / REPORT_FILE
    else:
        path = write_report(sources, console)
    evaluation, test = read_evaluation(sources.run), read_test(sources.run)
    choice = Selection.read(sources.run.read_metrics()).describe()
    rows = [
        (f"{side} accuracy", f"{format_share(found['accuracy'])} (95 % interval {interval.format()}{chosen})")
        for side, found, chosen in (
            ("validation", evaluation, f", for {choice}, chosen by these pictures" if choice else ""),
            ("test", test, ""),
        )
        if found
        for interval in [Interval(*found["accuracy_interval"])]
    ]
    console.show_table(f"run {config.run}", [*rows, ("report", str(path))])
    return {"report": str(path), "evaluation": evaluation, "test": test}


if __name__ == "__main__":
    run_app(report, ReportConfig, "python -m train_head.report")
