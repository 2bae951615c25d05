"""Command line of prediction: `python -m train_head.predict`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from base import streams
from base.command_line import CommandFailed, run_app
from base.errors import UsageError
from base.terminal import Console, format_count
from train_head.predict.config import PredictConfig, RowFormat

if TYPE_CHECKING:
    from train_head.predict.prediction import Prediction
    from train_head.predict.run import Consume, PredictionResult
    from train_head.runs.card import ModelCard


class _OutputClosedError(Exception):
    """Standard output that accepts no more lines; the command ends with the status for it."""


def predict(config: PredictConfig, console: Console) -> Mapping[str, Any]:
    """Classify pictures with an exported model.

    Examples:
        headstart predict --model work/model a.jpg pictures
        headstart predict --model work/model pictures --out predictions.csv
    """
    from train_head.predict.rows import RowWriter, choose_row_format
    from train_head.predict.run import collect_predictions, predict_each

    row_format = choose_row_format(config)
    has_lines = row_format is not RowFormat.TABLE
    if has_lines and not config.out and console.options.json:
        advice = "Leave one of the options out, or give --out"
        raise UsageError("--output-format", "one output on standard output", f"{row_format} and --json", advice)
    kept: list[Prediction] = []

    def open_consumer(card: ModelCard) -> Consume:
        if not has_lines or console.options.json:
            return kept.extend
        return (lambda _: None) if config.out else _print_lines(RowWriter(sys.stdout.buffer, row_format, card).write)

    try:
        result = predict_each(config, console, open_consumer)
    except _OutputClosedError:
        return {}
    if not has_lines:
        rows = [_list_cells(found, config, result.card) for found in kept]
        console.show_table(f"predictions of {config.model}", rows or [("no picture",)])
    _report(result, config, console)
    if result.failed:
        failed = [(file.image, file.reason) for file in result.failed]
        console.show_table("unreadable pictures", failed, on_stderr=has_lines)
        raise CommandFailed(collect_predictions(result, kept).to_json())
    return collect_predictions(result, kept).to_json()


def _print_lines(write: Consume) -> Consume:
    def write_or_stop(predictions: Sequence[Prediction]) -> None:
        write(predictions)
        if streams.find_output_error():
            raise _OutputClosedError

    return write_or_stop


def _list_cells(found: Prediction, config: PredictConfig, card: ModelCard) -> Sequence[object]:
    from train_head.predict.prediction import format_distance, format_shares

    return (
        found.image,
        found.describe() if card.is_multi_label else found.describe_class(),
        format_shares(found.rank_classes(config.top)),
        *(f"distance {cell}" for cell in format_distance(found.distance, card.outlier_threshold)),
    )


def _report(result: PredictionResult, config: PredictConfig, console: Console) -> None:
    """Print the numbers of predictions, where they are written, and the accuracy."""
    from train_head.predict.prediction import NONE_OF_THESE, UNSURE

    pictures, limit = format_count(result.num_pictures, "picture"), result.card.outlier_threshold
    if result.num_outliers:
        console.info(f"{result.num_outliers:,} of {pictures} {NONE_OF_THESE}: their distance is above {limit:,.0f}")
    if result.num_unsure:
        console.info(f"{result.num_unsure:,} of {pictures} {UNSURE}: their margin is below {config.unsure:g}")
    if accuracy := result.score.describe():
        console.info(accuracy)
    if config.out:
        console.info(f"predictions of {pictures} written to {config.out}")
    if config.sort_into:
        console.info(f"links to {pictures} written to {config.sort_into}")


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(predict, PredictConfig, name)


if __name__ == "__main__":
    main("python -m train_head.predict")
