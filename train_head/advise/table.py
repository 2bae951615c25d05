"""Results of a comparison as a table, as sentences and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from base.terminal import format_bytes, format_count, format_seconds
from train_head.advise.compare_features import Comparison, Row
from train_head.advise.statistics import Difference, LearningCurve, Outlook
from train_head.evaluation.uncertainty import format_share

_HEADER = ("features", "accuracy", "gain", "fit", "size", "extract")
"""Accuracy with half its 95% interval, gain over the first row, time to read the features and to fit a head, size of
the features of a picture, and time to extract all pictures of the folder."""


def format_title(comparison: Comparison) -> str:
    """Return the title of the table: the pictures, and the accuracy of the simplest predictor."""
    pictures = format_count(comparison.num_pictures, "training picture")
    largest = format_share(comparison.largest_class_share)
    return (
        f"{comparison.title}: leave-one-out accuracy on {pictures} of {comparison.num_classes:,} classes "
        f"(always predicting the largest class: {largest})"
    )


def format_rows(comparison: Comparison, num_pictures: int) -> list[tuple[str, ...]]:
    """Return the rows of the table, with a header.

    Args:
        comparison: the results.
        num_pictures: number of pictures in the folder, for the time of their extraction.
    """
    rows: list[tuple[str, ...]] = [_HEADER]
    for row in comparison.rows:
        extraction = estimate_extraction(row, num_pictures)
        stored = "stored" if row.setting.extract is None else "unknown"
        rows.append(
            (
                row.setting.name,
                f"{row.accuracy:.3f} ±{(row.interval.high - row.interval.low) / 2:.3f}",
                f"{row.difference.gain:+.3f}" + "*" * row.difference.is_better if row.difference else "",
                format_seconds(row.seconds),
                format_bytes(row.setting.bytes_per_picture),
                stored if extraction is None else format_seconds(extraction),
            )
        )
    return rows


def estimate_extraction(row: Row, num_pictures: int) -> float | None:
    """Return the time to extract all pictures of the folder, in seconds; None if unknown, or if they are stored."""
    return num_pictures / row.setting.rate if row.setting.rate and num_pictures else None


def describe_conclusions(comparison: Comparison) -> list[str]:
    """Describe the conclusions from a comparison, as sentences."""
    first, best, pictures = comparison.rows[0], comparison.best, format_count(comparison.num_pictures, "picture")
    lines = []
    if best.difference:
        count = format_count(len(comparison.rows) - 1, "comparison")
        lines.append(
            f"* {best.setting.name} is significantly better than {first.setting.name}: "
            f"{_describe_difference(best.difference)}, corrected for {count}"
        )
    others = [(row.difference, row.setting.name) for row in comparison.rows if row.difference]
    if others and not best.difference:
        difference, name = max(others, key=lambda pair: pair[0].gain)
        lines.append(
            f"no features are significantly better than {first.setting.name}. The highest gain is that of "
            f"{name}: {_describe_difference(difference)}. {_describe_detectable(comparison, pictures)}"
        )
    if comparison.num_alone:
        count = format_count(comparison.num_alone, "class", "classes")
        lines.append(f"{count} with a single picture, which no head can classify correctly without it")
    curve = comparison.curve
    lines.append(_describe_curve(curve, best.setting.name) if curve else f"{pictures}: too few for a learning curve")
    return lines


def describe_comparison(comparison: Comparison, num_pictures: int) -> dict[str, Any]:
    """Return a comparison as `--json` prints it."""
    curve = comparison.curve
    return {
        "title": comparison.title,
        "num_pictures": comparison.num_pictures,
        "num_classes": comparison.num_classes,
        "num_alone": comparison.num_alone,
        "largest_class_share": comparison.largest_class_share,
        "detectable": comparison.detectable,
        "rows": [
            {
                "features": row.setting.name,
                "accuracy": row.accuracy,
                "interval": list(row.interval),
                "difference": row.difference and asdict(row.difference) | {"is_better": row.difference.is_better},
                "seconds": row.seconds,
                "bytes_per_picture": row.setting.bytes_per_picture,
                "extraction_seconds": estimate_extraction(row, num_pictures),
                "extract": row.setting.extract,
                "train": row.setting.train,
            }
            for row in comparison.rows
        ],
        "best": comparison.best.setting.name if comparison.best.difference else None,
        "learning_curve": curve and asdict(curve) | {"outlook": curve.outlook.value},
    }


def _describe_difference(difference: Difference) -> str:
    p_value = f"p = {difference.p_value:.2g}" if difference.p_value >= 0.0001 else "p < 0.0001"
    return f"{difference.gain:+.4f} (95% interval {difference.low:+.4f} to {difference.high:+.4f}, {p_value})"


def _describe_detectable(comparison: Comparison, pictures: str) -> str:
    if comparison.detectable is None:
        return f"With {pictures}, no gain can be detected"
    return f"With {pictures}, a gain below {comparison.detectable:.4f} cannot be detected"


def _describe_curve(curve: LearningCurve, name: str) -> str:
    sizes = ", ".join(f"{size:,}" for size in curve.num_train)
    accuracies = ", ".join(map(format_share, curve.accuracies))
    interval = f"{curve.gain:+.4f} (95% interval {curve.low:+.4f} to {curve.high:+.4f})"
    conclusion = {
        Outlook.HELPS: f"twice as many pictures would help: {interval}",
        Outlook.LITTLE: f"twice as many pictures would help little: {interval}",
        Outlook.UNKNOWN: f"whether twice as many pictures would help cannot be determined: {interval}",
    }
    return f"{name} with {sizes} pictures: {accuracies}; {conclusion[curve.outlook]}"
