"""Views: a picture itself, and seeded augmentations of it, as the backbone sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extract.decode import Pixels
from extract.pixels import prepare_pixels

if TYPE_CHECKING:
    import keras

RECIPE = "flip, rotation 40 degrees, shift 0.2, shear 0.2, zoom 0.2, edges repeated"
"""The augmentations of TensorFlow's course on cats and dogs, as Keras's layers do them, in this order."""

Prepared = dict[int, NDArray[np.float32]]
"""(image_size, image_size, 3) in [-1, 1] for each view."""


def list_views(split: str, num_views: int) -> range:
    """Says which views a picture of a split is to have: the others validate, and are as they are."""
    return range(num_views if split in ("", "train") else 1)


def describe_views(seed: int) -> str:
    """Names the recipe of the augmentations, for the fingerprint; how many there are changes none of them."""
    return f"{RECIPE}; seed {seed}"


def derive_seed(content_hash: bytes, view: int, seed: int) -> NDArray[np.int32]:
    """Derives the seed of one view of one content: independent of names, of order and of the other views.

    Returns:
        (2,) int32, the seed of TensorFlow's stateless random numbers.
    """
    text = f"view {view} seed {seed}".encode()
    return np.frombuffer(hashlib.sha256(content_hash + text).digest()[:8], "<i4").astype(np.int32)


def compile_views(image_size: int, seed: int) -> Callable[[Pixels, bytes, Iterable[int]], Prepared]:
    """Compiles what takes decoded pixels to views.

    Args:
        image_size: the side of the square, in pixels.
        seed: of the augmentations.

    Returns:
        A function from (height, width, 3) uint8 pixels, their file's content hash, and which views are wanted;
        view 0 is what `prepare_pixels` gives. Safe to call from several threads.
    """
    import tensorflow as tf

    layers = _build_augmentations()
    draws = _make_draws()

    def augment(image: Any, view_seed: Any) -> Any:
        draws.start(view_seed)
        images = image[None]
        for layer in layers:
            drawn = layer.get_random_transformation(images, training=True, seed=draws)
            images = layer.transform_images(images, drawn, training=True)
        return images[0]

    # Traced here, in one thread.
    augmented = tf.function(augment, autograph=False).get_concrete_function(
        tf.TensorSpec((image_size, image_size, 3), tf.float32), tf.TensorSpec((2,), tf.int32)
    )

    def prepare(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        image = prepare_pixels(pixels, image_size)
        return {
            view: augmented(tf.constant(image), tf.constant(derive_seed(content_hash, view, seed))).numpy()
            if view
            else image
            for view in views
        }

    return prepare


def _build_augmentations() -> list[keras.layers.Layer]:
    import keras

    edges = {"fill_mode": "nearest"}
    return [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(40 / 360, **edges),
        keras.layers.RandomTranslation(0.2, 0.2, **edges),
        keras.layers.RandomShear(0.2, **edges),
        keras.layers.RandomZoom(0.2, **edges),
    ]


def _make_draws() -> Any:
    """Makes a generator of seeds that counts on from a given one, where Keras's own keeps state between pictures."""
    import keras
    import tensorflow as tf

    class Draws(keras.random.SeedGenerator):  # type: ignore[misc]
        def start(self, first: Any) -> None:
            self._first, self._num_given = first, 0

        def next(self, ordered: bool = True) -> Any:
            self._num_given += 1
            return self._first + tf.constant([0, self._num_given])

    return Draws(seed=0)
