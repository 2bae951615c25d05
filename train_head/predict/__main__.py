"""Command line of prediction: `python -m train_head.predict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import CommandFailed, run_app
from base.terminal import Console, format_count
from train_head.config import PredictConfig


def predict(config: PredictConfig, console: Console) -> Mapping[str, Any]:
    """Classify pictures with an exported model."""
    from train_head.predict.classify import predict_pictures
    from train_head.predict.prediction import NONE_OF_THESE

    predictions = predict_pictures(config, console)
    rows = [
        (
            p.image,
            *([p.describe()] if predictions.is_multi_label else [p.describe_class(), f"{p.probability:.4f}"]),
            *([] if p.distance is None else [f"distance {p.distance:,.0f}"]),
        )
        for p in predictions
    ]
    console.show_table(f"predictions of {config.model}", rows or [("no picture",)])
    if num_outliers := sum(p.is_outlier for p in predictions):
        pictures, limit = format_count(len(predictions), "picture"), predictions.outlier_threshold
        console.info(f"{num_outliers:,} of {pictures} {NONE_OF_THESE}: their distance is above {limit:,.0f}")
    if predictions.accuracy is not None:
        pictures = format_count(len(predictions), "picture")
        console.info(f"accuracy {predictions.accuracy:.4f} on {pictures}, with the class folders as labels")
    if predictions.failed:
        console.show_table("unreadable pictures", [(file.image, file.reason) for file in predictions.failed])
        raise CommandFailed(predictions.to_json())
    return predictions.to_json()


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(predict, PredictConfig, name)


if __name__ == "__main__":
    main("python -m train_head.predict")
