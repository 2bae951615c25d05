"""Command line of suggestions: `python -m train_head.suggest`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import CommandFailed, run_app
from base.terminal import Console, format_count
from train_head.suggest.config import SuggestConfig

NUM_SHOWN = 10


def suggest(config: SuggestConfig, console: Console) -> Mapping[str, Any]:
    """Rank unlabelled pictures by what labelling them would teach, with an exported model.

    Examples:
        headstart suggest work/model unlabelled --out work/suggestions --count 100
    """
    from train_head.suggest.run import suggest_pictures

    found = suggest_pictures(config, console)
    rows = [(s.rank, s.path, s.label, f"{s.probability:.4f}") for s in found[:NUM_SHOWN]]
    pictures = format_count(found.num_pictures, "picture")
    console.show_table(f"first of {len(found):,} suggestions from {pictures}", rows)
    console.info(f"all suggestions: {found.table_path} and {found.page_path}")
    if found.num_outliers:
        console.info(f"{format_count(found.num_outliers, 'picture')} left out: none of the classes")
    if found.failed:
        console.show_table("unreadable pictures", [(file.image, file.reason) for file in found.failed])
        raise CommandFailed(found.to_json())
    return found.to_json()


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(suggest, SuggestConfig, name)


if __name__ == "__main__":
    main("python -m train_head.suggest")
