"""Views: a picture itself, and seeded augmentations of it, as the backbone sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.decode import Pixels
from extract.pixels import prepare_pixels

RECIPE = "flip, rotation 40 degrees, shift 0.2, shear 0.2, zoom 0.2, edges repeated"
"""Augmentations of TensorFlow's course on cats and dogs, as Keras's layers compute them, in this order."""

Prepared = dict[int, NDArray[np.float32]]
"""(image_size, image_size, 3) in [-1, 1] for each view."""

Prepare = Callable[[Pixels, bytes, Iterable[int]], Prepared]
"""Function from (height, width, 3) uint8 pixels, their file's content hash and the numbers of views to the views."""


def list_views(split: str, num_views: int) -> range:
    """Return the views that a picture of a split should have: several for training, else the picture alone."""
    return range(num_views if split in ("", "train") else 1)


def describe_views(seed: int) -> str:
    """Return the recipe for the fingerprint; the number of views changes none of them."""
    return f"{RECIPE}; seed {seed}"


def derive_seed(content_hash: bytes, view: int, seed: int) -> NDArray[np.int32]:
    """Derive the seed of one view of one content, independent of names, of order and of the other views.

    Returns:
        (2,) int32, the seed of TensorFlow's stateless random numbers.
    """
    text = f"view {view} seed {seed}".encode()
    return np.frombuffer(hashlib.sha256(content_hash + text).digest()[:8], "<i4").astype(np.int32)


def compile_views(image_size: int, seed: int) -> Prepare:
    """Compile the function that makes views, safe to call from several threads; view 0 is `prepare_pixels`'s.

    Args:
        image_size: the side of the square, in pixels.
        seed: of the augmentations.
    """
    import keras
    import tensorflow as tf

    class Draws(keras.random.SeedGenerator):  # type: ignore[misc]
        """Generator that counts on from a given seed, where Keras's own keeps state between pictures."""

        def start(self, first: Any) -> None:
            self._first, self._num_given = first, 0

        def next(self, ordered: bool = True) -> Any:
            self._num_given += 1
            return self._first + tf.constant([0, self._num_given])

    edges = {"fill_mode": "nearest"}
    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(40 / 360, **edges),
        keras.layers.RandomTranslation(0.2, 0.2, **edges),
        keras.layers.RandomShear(0.2, **edges),
        keras.layers.RandomZoom(0.2, **edges),
    ]
    draws = Draws(seed=0)

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
