"""An exported model: one ordinary Keras file, raw RGB pixels in, probabilities out, class names inside."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.pixels import Pixels
from features.console import import_quietly
from features.errors import HeadstartError
from train_head.head import Array

if TYPE_CHECKING:
    import keras

CARD_NAME = "headstart.json"
"""The file inside `model.keras` (a zip file) that Keras passes over and `predict` reads."""


@dataclass(frozen=True)
class ModelCard:
    """What an exported model says of itself."""

    classes: list[str]
    image_size: int
    decode_policy: str
    cut: str
    weights: str
    fingerprint: str
    val_accuracy: float


def save_model(model: keras.Model, card: ModelCard, path: Path) -> None:
    """Writes a model in Keras's format, with its card in it."""
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CARD_NAME, json.dumps(asdict(card), indent=2))


class ExportedModel:
    """A `model.keras` that was read from disk."""

    def __init__(self, path: Path) -> None:
        """Loads the model in safe mode and reads its card.

        Raises:
            HeadstartError: there is no such file, or it is no exported model.
        """
        self.card = read_card(path)
        import_quietly("keras")
        import keras
        import tensorflow as tf

        try:
            self._model = keras.saving.load_model(path, compile=False, safe_mode=True)
            specification = tf.TensorSpec((None, None, None, 3), tf.float32)
            self._call = tf.function(
                lambda images: self._model(images, training=False), input_signature=[specification]
            )
        except Exception as error:
            # Keras raises whatever its many deserialisers raise.
            raise HeadstartError(
                path, "an exported model", f"{type(error).__name__}: {error}", "Export it again"
            ) from error

    def predict(self, images: Iterable[Pixels], batch_size: int) -> Iterator[Array]:
        """Predicts pictures of any sizes, in their order.

        Args:
            images: (height, width, 3) uint8 RGB each.
            batch_size: how many neighbours of one size go together.

        Yields:
            The model's outputs for each picture: (1,) for two classes, else (classes,) float32.
        """
        group: list[Pixels] = []
        for image in images:
            if group and (len(group) == batch_size or image.shape != group[0].shape):
                yield from self._predict_group(group)
                group = []
            group.append(image)
        if group:
            yield from self._predict_group(group)

    def _predict_group(self, group: Sequence[Pixels]) -> Any:
        return self._call(np.stack(group).astype(np.float32)).numpy()


def read_card(path: Path) -> ModelCard:
    """Reads an exported model's card, without TensorFlow.

    Raises:
        HeadstartError: there is no such file, or it is no exported model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            card = ModelCard(**json.loads(archive.read(CARD_NAME)))
        classes = card.classes
        if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(label, str) for label in classes):
            raise ValueError("a card without two class names")
        return card
    except FileNotFoundError:
        raise HeadstartError(
            path, "an exported model", "no such file", "Run `python -m train_head.export` first"
        ) from None
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise HeadstartError(
            path, "a model.keras that `train_head.export` made", f"another file ({error})", "Check the path"
        ) from error
