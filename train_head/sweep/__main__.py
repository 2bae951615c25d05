"""Command line of sweeps: `python -m train_head.sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from base.command_line import CommandFailed, run_app
from base.terminal import Console
from train_head.runs.record import BEST_FOLDER
from train_head.sweep.config import SweepConfig


def sweep(config: SweepConfig, console: Console) -> Mapping[str, Any]:
    """Fit many heads on one extraction, compare them with simple baselines, and keep the best for export.

    Examples:
        headstart sweep --store work/store --out work/sweep
        headstart sweep --store work/store --out work/sweep --try dropout=0,0.2,0.5 --try units=256,1024
    """
    from train_head.report.page import report_fitted_run
    from train_head.sweep.run import NoHeadError, sweep_heads

    try:
        result = sweep_heads(config, console)
    except NoHeadError as error:
        raise CommandFailed(error.result, str(error)) from error
    best = replace(config.make_train_config("", {}), run=config.out / BEST_FOLDER, no_report=config.no_report)
    report = report_fitted_run(best, console)
    if report:
        console.info(f"report of the best head: {report}")
    return result | {"report": report and str(report)}


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(sweep, SweepConfig, name)


if __name__ == "__main__":
    main("python -m train_head.sweep")
