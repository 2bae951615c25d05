"""Command line of the export: `python -m train_head.export`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import CommandFailed, run_app
from base.terminal import Console, format_bytes
from train_head.config import ExportConfig


def export(config: ExportConfig, console: Console) -> Mapping[str, Any]:
    """Stitch backbone and head into one Keras model that takes raw pixels, and check it on real pictures."""
    from train_head.export.write import ParityError, export_run
    from train_head.runs.card import read_card

    try:
        result = export_run(config, console)
    except ParityError as error:
        raise CommandFailed(error.result.to_json(), str(error)) from error
    parity = result.parity
    flipped = f"{parity.num_flipped:,} other labels" if parity.num_flipped else "same labels"
    checked = f"{parity.num_pictures:,} of {result.num_validation:,} validation pictures, reloaded from disk"
    console.show_table(
        f"exported model in {config.out}",
        [
            *((file.name, format_bytes(file.stat().st_size)) for file in result.files),
            ("classes", ", ".join(read_card(result.files[0]).classes)),
            ("checked on", checked),
            ("accuracy from pixels", f"{parity.accuracy:.4f} of those"),
            ("against backbone and head", f"{parity.max_difference:.2g} in probability"),
            ("against stored features", f"{parity.max_stored_difference:.2g} in probability, {flipped}"),
        ],
    )
    return result.to_json()


def main(name: str) -> None:
    """Run the command under a name, and end the process."""
    run_app(export, ExportConfig, name)


if __name__ == "__main__":
    main("python -m train_head.export")
