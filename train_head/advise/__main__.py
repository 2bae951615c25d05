"""Command line of advice: `python -m train_head.advise`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import run_app
from base.terminal import Console
from train_head.advise.config import AdviseConfig


def advise(config: AdviseConfig, console: Console) -> Mapping[str, Any]:
    """Compare the features that a head can be trained on, and print the command to run next.

    Examples:
        headstart advise --store work/store
        headstart advise --store work/store --images pictures
    """
    from train_head.advise.advice import advise as compare
    from train_head.advise.table import describe_conclusions, format_rows, format_title

    advice = compare(config, console)
    for comparison in advice.comparisons:
        console.show_table(format_title(comparison), format_rows(comparison, advice.num_pictures))
        for line in describe_conclusions(comparison):
            console.info(line)
    if advice.command:
        console.info(f"next: {advice.command}")
    return advice.to_json()


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(advise, AdviseConfig, name)


if __name__ == "__main__":
    main("python -m train_head.advise")
