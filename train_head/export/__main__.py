"""Command line of export: `python -m train_head.export`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import CommandFailed, run_app
from base.terminal import Console
from train_head.export.config import ExportConfig


def export(config: ExportConfig, console: Console) -> Mapping[str, Any]:
    """Join a run's backbone and head into one model that takes raw pixels, in one or more formats, and check it.

    Examples:
        headstart export --run work/run --out work/model
        headstart export --run work/run --out work/model --formats keras,litert --dtype float16
    """
    from train_head.export.result import ParityError
    from train_head.export.write import export_run

    try:
        result = export_run(config, console)
    except ParityError as error:
        raise CommandFailed(error.result.to_json(), str(error)) from error
    console.show_table(f"exported model in {config.out}", result.list_rows())
    return result.to_json()


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(export, ExportConfig, name)


if __name__ == "__main__":
    main("python -m train_head.export")
