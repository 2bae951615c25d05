"""Command line of prediction: `python -m train_head.predict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import CommandFailed, run_app
from base.terminal import Console
from train_head.config import PredictConfig


def predict(config: PredictConfig, console: Console) -> Mapping[str, Any]:
    """Classify pictures with an exported model."""
    from train_head.predict.classify import predict_pictures

    found = predict_pictures(config, console)
    rows = [(p.image, p.label, f"{p.probability:.4f}") for p in found]
    console.show_table(f"predictions of {config.model}", rows or [("no picture",)])
    if found.accuracy is not None:
        console.info(f"accuracy by the folders' names: {found.accuracy:.4f} of {len(found):,}")
    if found.failed:
        console.show_table("pictures that could not be used", [(file.image, file.reason) for file in found.failed])
        raise CommandFailed(found.to_json())
    return found.to_json()


def main(name: str) -> None:
    """Run the command under a name, and end the process."""
    run_app(predict, PredictConfig, name)


if __name__ == "__main__":
    main("python -m train_head.predict")
