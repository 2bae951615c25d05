"""Command line of trial and error: `python -m train_head.sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from base.command_line import run_app
from base.terminal import Console
from train_head.runs.record import BEST_FOLDER
from train_head.sweep.config import SweepConfig


def sweep(config: SweepConfig, console: Console) -> Mapping[str, Any]:
    """Fit many heads on one extraction, side by side with simple baselines, and keep the best ready for export."""
    from train_head.report.page import report_fitted_run
    from train_head.sweep.run import sweep_heads

    result = sweep_heads(config, console)
    best = config.make_training("", {})
    report = report_fitted_run(replace(best, run=config.out / BEST_FOLDER, no_report=config.no_report), console)
    if report:
        console.say(f"what the best one learned, and what it gets wrong: {report}")
    return result | {"report": report and str(report)}


if __name__ == "__main__":
    run_app(sweep, SweepConfig, "python -m train_head.sweep")
