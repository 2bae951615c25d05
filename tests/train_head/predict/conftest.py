"""Fixture that replaces the exported model by a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.train_head.predict.fake import Run, classify_colours, make_card, make_model


@pytest.fixture
def use_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Function that makes `predict` use a model without TensorFlow, and returns its path.

    Its arguments are the training pictures, the function of the model, and values of the card.
    """

    def use(training: Sequence[Path] = (), run: Run = classify_colours, **values: Any) -> Path:
        path = tmp_path / "export/model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        model = make_model(path, make_card(**values), training, run)
        monkeypatch.setattr("train_head.predict.run.open_model", lambda path, has_features: model)
        return path

    return use
