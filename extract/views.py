"""Views of a picture, prepared for the backbone: the picture itself and seeded augmentations."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.decoding.convert import Pixels
from extract.pixels import prepare_pixels
from features.schema import is_training

RECIPE = "flip, rotation 40 degrees, shift 0.2, shear 0.2, zoom 0.2, edges repeated"
"""Augmentations by Keras layers, in this order; taken from TensorFlow's course on cats and dogs."""

Prepared = dict[int, NDArray[np.float32]]
"""Views by index, each an array (image_size, image_size, 3) in [-1, 1]."""

Prepare = Callable[[Pixels, bytes, Iterable[int]], Prepared]
"""Function from pixels (height, width, 3) uint8, the content hash of the file and view indices to the views."""


def list_views(split: str, num_views: int) -> range:
    """Return the view indices for a picture of a split: `num_views` for training, only view 0 for other splits."""
    return range(num_views if is_training(split) else 1)


def describe_views(seed: int) -> str:
    """Return the recipe for the fingerprint; the number of views is not part of it, as it changes no view."""
    return f"{RECIPE}; seed {seed}"


def derive_seed(content_hash: bytes, view: int, seed: int) -> NDArray[np.int32]:
    """Derive the random seed of a view from the content hash, so that names, order and other views do not matter.

    Returns:
        (2,) int32, a seed for TensorFlow's stateless random numbers.
    """
    text = f"view {view} seed {seed}".encode()
    return np.frombuffer(hashlib.sha256(content_hash + text).digest()[:8], "<i4").astype(np.int32)


def compile_views(image_size: int, seed: int) -> Prepare:
    """Return a thread-safe function that computes views; view 0 is the result of `prepare_pixels`.

    The augmentations are compiled on first use, which takes half a second.

    Args:
        image_size: height and width of the views, in pixels.
        seed: random seed of the augmentations.
    """
    lock = threading.Lock()
    compile_once = cache(partial(_compile_augmentation, image_size))

    def augment(image: NDArray[np.float32], view_seed: NDArray[np.int32]) -> NDArray[np.float32]:
        with lock:
            compiled = compile_once()
        return compiled(image, view_seed)

    def prepare(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        image = prepare_pixels(pixels, image_size)
        return {view: augment(image, derive_seed(content_hash, view, seed)) if view else image for view in views}

    return prepare


def _compile_augmentation(image_size: int) -> Callable[[NDArray[np.float32], NDArray[np.int32]], NDArray[np.float32]]:
    """Compile a thread-safe function from an image and a random seed to a view."""
    import keras
    import tensorflow as tf

    class Draws(keras.random.SeedGenerator):  # type: ignore[misc]
        """Seed generator that restarts with each view; the one of Keras keeps its state."""

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

    # Traced now, in one thread, because tracing changes `draws`.
    graph = tf.function(augment, autograph=False).get_concrete_function(
        tf.TensorSpec((image_size, image_size, 3), tf.float32), tf.TensorSpec((2,), tf.int32)
    )

    def augment_array(image: NDArray[np.float32], view_seed: NDArray[np.int32]) -> NDArray[np.float32]:
        view: NDArray[np.float32] = graph(tf.constant(image), tf.constant(view_seed)).numpy()
        return view

    return augment_array
