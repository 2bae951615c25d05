"""An exported model: one ordinary Keras file, raw RGB pixels in, probabilities out, class names inside."""

from __future__ import annotations

import json
import math
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from base.errors import HeadstartError
from base.terminal import import_quietly
from extract.decode import Pixels
from train_head.data.batches import Array
from train_head.export.card import CARD_NAME, MODEL_FILE, ModelCard, compute_digest
from train_head.export.model_file import open_model

if TYPE_CHECKING:
    import keras


def save_model(model: keras.Model, card: ModelCard, path: Path) -> ModelCard:
    """Write a model in Keras's format with its card in it; return the card with the digest of both."""
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        digest = compute_digest(card, {name: archive.read(name) for name in archive.namelist()})
        card = replace(card, digest=digest)
        archive.writestr(CARD_NAME, json.dumps(asdict(card), indent=2))
    return card


MAX_PIXELS_AT_ONCE = 2**22
"""Of pictures, before or after the model resizes them: its layers take some 200 bytes a pixel."""
MAX_NUMBERS = 2**28
"""That a layer makes of one picture; a backbone's largest have 64 for each of the picture's pixels."""


class ExportedModel:
    """A `model.keras` that was read from disk, once: what was checked is what is loaded."""

    def __init__(self, path: Path) -> None:
        """Checks the file, loads the model in safe mode and reads its card.

        Raises:
            HeadstartError: there is no such file, or it is no exported model.
        """
        with open_model(path) as (self.card, file):
            import_quietly("keras")
            import tensorflow as tf

            try:
                self._model = _load_model(file)
            except Exception as error:
                # Keras raises whatever its many deserialisers raise.
                raise _explain(path, error) from error
        try:
            specification = tf.TensorSpec((None, None, None, 3), tf.float32)
            _check_shapes(self._model, len(self.card.classes))
            # Traced here, so that a model that does not fit together is no surprise later.
            self._call = tf.function(
                lambda images: self._model(images, training=False), input_signature=[specification]
            ).get_concrete_function()
        except Exception as error:
            # TensorFlow and the layers raise kinds of their own.
            raise _explain(path, error) from error
        self._path = path

    def predict(self, images: Iterable[Pixels | Array], batch_size: int) -> Iterator[Array]:
        """Predicts pictures of any sizes, in their order.

        Args:
            images: (height, width, 3) RGB each, 0–255; as they were decoded, or resized to the model's own size.
            batch_size: how many neighbours of one size go together, fewer of large ones.

        Yields:
            The model's outputs for each picture: (1,) for two classes, else (classes,) float32.
        """
        group: list[Pixels | Array] = []
        for image in images:
            num_pixels = max(image.shape[0] * image.shape[1], self.card.image_size**2)
            num_fitting = min(batch_size, MAX_PIXELS_AT_ONCE // num_pixels)
            if group and (len(group) >= num_fitting or image.shape != group[0].shape):
                yield from self._predict_group(group)
                group = []
            group.append(image)
        if group:
            yield from self._predict_group(group)

    def _predict_group(self, group: Sequence[Pixels | Array]) -> Any:
        import tensorflow as tf

        try:
            return self._call(tf.constant(np.stack(group), tf.float32)).numpy()
        except Exception as error:
            # TensorFlow raises kinds of its own; with a sound model, memory is short.
            raise _explain(self._path, error) from error


def _load_model(file: BinaryIO) -> keras.Model:
    """Load a model from an open file without a name; Keras asks for one."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, MODEL_FILE)
        link.symlink_to(f"/dev/fd/{file.fileno()}")
        return keras.saving.load_model(link, compile=False, safe_mode=True)


def _check_shapes(model: keras.Model, num_classes: int) -> None:
    """Raises ValueError where outputs are not the card's classes, or something between is too large to compute."""
    num_outputs = 1 if num_classes == 2 else num_classes
    if tuple(model.output_shape) != (None, num_outputs):
        raise ValueError(f"outputs of {model.output_shape} for {num_classes} classes")
    pending = [model]
    while pending:
        for layer in pending.pop().layers:
            if hasattr(layer, "layers"):
                pending.append(layer)
            size = math.prod(side or 1 for side in layer.output.shape)
            if size > MAX_NUMBERS:
                raise ValueError(f"{layer.name} makes {size:,} numbers of a picture")


def _explain(path: Path, error: Exception) -> HeadstartError:
    got = next((line.strip() for line in str(error).splitlines() if line.strip()), "no word")
    return HeadstartError(path, "an exported model that runs", f"{type(error).__name__}: {got}", "Export it again")
