"""Command line of export: `python -m train_head.export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.command_line import CommandFailed, run_app
from base.terminal import Console, format_bytes, format_count, format_list
from train_head.export.config import ExportConfig


def export(config: ExportConfig, console: Console) -> Mapping[str, Any]:
    """Join a run's backbone and head into one model that takes raw pixels, in one or more formats, and check it."""
    from train_head.evaluation.uncertainty import name_accuracy
    from train_head.export.description import DESCRIPTION_FILE, read_description
    from train_head.export.result import ParityError
    from train_head.export.write import export_run

    try:
        result = export_run(config, console)
    except ParityError as error:
        raise CommandFailed(error.result.to_json(), str(error)) from error
    parity = result.parity
    labels = format_count(parity.num_flipped, "different label") if parity.num_flipped else "same labels"
    description = read_description(config.out / DESCRIPTION_FILE)
    card = description.card
    shown = card.classes
    if card.is_multi_label:
        pairs = zip(card.classes, card.thresholds, strict=True)
        shown = [f"{label} from {threshold:g}" for label, threshold in pairs]
    console.show_table(
        f"exported model in {config.out}",
        [
            *((path.name, format_bytes(measure_path(path))) for path in result.files),
            ("labels" if card.is_multi_label else "classes", format_list(shown)),
            ("checked on", f"{parity.num_pictures:,} of {format_count(result.num_validation, 'validation picture')}"),
            (f"{name_accuracy(is_multi_label=card.is_multi_label)} on these pictures", f"{parity.accuracy:.4f}"),
            ("difference from backbone and head", f"at most {parity.max_difference:.2g} in probability"),
            ("difference from stored features", f"at most {parity.max_stored_difference:.2g} in probability, {labels}"),
            *(
                (
                    f"difference of {check.format} ({check.dtype}) from Keras",
                    f"at most {check.max_difference:.2g} in probability, "
                    f"{format_count(check.num_changed, 'changed label')} on "
                    f"{format_count(check.num_pictures, 'picture')}",
                )
                for check in result.checks
            ),
        ],
    )
    return result.to_json()


def measure_path(path: Path) -> int:
    """Return the number of bytes of a file, or of the files in a folder."""
    files = [path] if path.is_file() else [inside for inside in path.rglob("*") if inside.is_file()]
    return sum(file.stat().st_size for file in files)


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(export, ExportConfig, name)


if __name__ == "__main__":
    main("python -m train_head.export")
