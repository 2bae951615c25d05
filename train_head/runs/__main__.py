"""Command line of the list of runs: `python -m train_head.runs`."""

from base.command_line import run_app
from train_head.runs.listing import RunsConfig, runs

if __name__ == "__main__":
    run_app(runs, RunsConfig, "python -m train_head.runs")
