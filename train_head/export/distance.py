"""The distance to the nearest class as Keras layers, from the inputs of the head."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import h5py
import numpy as np

from train_head.data.batches import Array
from train_head.evaluation.mahalanobis import ClassModel
from train_head.export.outputs import DISTANCE

if TYPE_CHECKING:
    import keras

DISTANCE_NAME = "distance.weights.h5"
"""Name of the arrays inside a `model.keras` without this output; Keras does not read them."""
ARRAYS = ("dense/vars/0", "dense/vars/1", "dense_1/vars/0", "dense_1/vars/1")
"""HDF5 datasets of the layers' arrays, as Keras names them, in the order of `list_arrays`."""


def list_arrays(model: ClassModel) -> list[Array]:
    """List the kernels and biases of two dense layers.

    The first computes z = (x - center) W of a feature x of length 1. The second computes 2 zᵀm - ‖m‖² for each whitened
    class mean m, so that the squared distance to the nearest is ‖z‖² minus the largest of its outputs.
    """
    bias = -model.center.astype(np.float64) @ model.kernel.astype(np.float64)
    squares = np.sum(model.means.astype(np.float64) ** 2, axis=1)
    arrays = model.kernel, bias, 2 * model.means.T, -squares
    return [np.ascontiguousarray(array, np.float32) for array in arrays]


def build_distance(feature_shape: Sequence[int], arrays: Sequence[Array]) -> keras.Model:
    """Build the model from features, (n, *feature_shape), to their squared distances, (n, 1).

    Features with height and width are averaged over them. Of several cut layers in one feature, the last is used.

    Raises:
        ValueError: the arrays do not fit each other or the features.
    """
    import keras

    if [array.ndim for array in arrays] != [2, 1, 2, 1]:
        raise ValueError("distance arrays with the wrong number of dimensions")
    num_channels, num_classes = len(arrays[0]), arrays[2].shape[-1]
    shapes = [(num_channels, num_channels), (num_channels,), (num_channels, num_classes), (num_classes,)]
    if [array.shape for array in arrays] != shapes or not 0 < num_channels <= feature_shape[-1] or not num_classes:
        raise ValueError(f"distance arrays of shapes {[array.shape for array in arrays]}")
    inputs = values = keras.Input(tuple(feature_shape), name="feature")
    if len(feature_shape) == 3:
        values = keras.layers.GlobalAveragePooling2D(name="pool")(values)
    if num_channels < feature_shape[-1]:
        values = keras.layers.Reshape((feature_shape[-1], 1), name="columns")(values)
        values = keras.layers.Cropping1D((feature_shape[-1] - num_channels, 0), name="last_cut")(values)
        values = keras.layers.Reshape((num_channels,), name="row")(values)
    white = keras.layers.Dense(num_channels, name="whiten")(keras.layers.UnitNormalization(name="unit")(values))
    scores = keras.layers.Dense(num_classes, name="classes")(white)
    nearest = keras.layers.GlobalMaxPooling1D(name="nearest")(keras.layers.Reshape((num_classes, 1))(scores))
    squares = keras.layers.Dot(1, name="squares")([white, white])
    difference = keras.layers.Subtract(name="difference")([squares, nearest])
    model = keras.Model(inputs, keras.layers.ReLU(name="squared_distance")(difference), name=DISTANCE)
    model.set_weights(list(arrays))
    model.trainable = False
    return model


def measure_features(model: ClassModel, features: Array) -> Array:
    """Compute the distances, (n,) float32, of inputs of the head, (n, *feature_shape), in NumPy."""
    pooled = features.mean(axis=(1, 2)) if features.ndim == 4 else features
    return model.measure(pooled[:, -len(model.center) :])


def encode_arrays(arrays: Sequence[Array]) -> bytes:
    """Encode the arrays as an HDF5 file."""
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        for name, array in zip(ARRAYS, arrays, strict=True):
            file[name] = array
    return data.getvalue()


def find_arrays(arrays: Mapping[str, Array], prefix: str) -> list[Array]:
    """Return the arrays of the distance below a prefix; an empty list if there are none.

    Raises:
        ValueError: some are missing.
    """
    found = [arrays[prefix + name] for name in ARRAYS if prefix + name in arrays]
    if found and len(found) < len(ARRAYS):
        raise ValueError("incomplete arrays of the distance")
    return found
