"""Command line of the list of runs: `python -m train_head.runs`."""

from base.command_line import run_app
from train_head.runs.listing import RunsConfig, runs


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(runs, RunsConfig, name)


if __name__ == "__main__":
    main("python -m train_head.runs")
