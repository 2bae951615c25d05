"""Baseline: transfer learning as in courses, where every epoch computes the backbone for every picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import keras

from features.store import Example
from train_head.data.split import Split
from train_head.solvers.head import build_head


class CourseLoop:
    """A Keras model on pixels, fitted one epoch at a time."""

    def __init__(self, images: Path, backbone: keras.Model, split: Split, links: Path, rate: float = 1e-4) -> None:
        """Build and compile the model, and create links to the pictures in the folders that Keras reads.

        Args:
            images: the folder of pictures.
            backbone: model from pixels in [-1, 1] to features; its trainable layers are trained.
            split: training and validation pictures.
            links: empty folder for symbolic links.
            rate: the learning rate.
        """
        head = build_head(backbone.output_shape[1:], len(split.classes), 1024, 0.2)
        self._model = keras.Sequential([keras.layers.Rescaling(1 / 127.5, offset=-1), backbone, head])
        binary = len(split.classes) == 2
        self._model.compile(
            optimizer=keras.optimizers.RMSprop(rate),
            loss="binary_crossentropy" if binary else "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        for name, examples in (("train", split.train), ("validation", split.validation)):
            _link(images, examples, links / name)
        size = backbone.input_shape[1:3]
        self._train, self._validation = (
            keras.utils.image_dataset_from_directory(
                links / name,
                label_mode="binary" if binary else "int",
                image_size=size,
                batch_size=20,
                verbose=False,
            )
            for name in ("train", "validation")
        )

    def time_epoch(self) -> float:
        """Fit and validate for one epoch; return the duration in seconds."""
        started = time.monotonic()
        self._model.fit(self._train, validation_data=self._validation, shuffle=False, verbose=0)
        return time.monotonic() - started


def _link(images: Path, examples: Sequence[Example], folder: Path) -> None:
    for number, example in enumerate(examples):
        link = folder / example.label / f"{number:06}{Path(example.path).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((images / example.path).resolve())
