"""Compare the engine with plain Keras, before the first features of a store are computed.

An engine can compute wrong features on a processor for which its kernels were not tested, without any error.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from extract.backbone import join_cuts
from extract.canary import NUM_ROWS
from extract.config import EngineName, ExtractConfig, Precision, choose_batch_size
from extract.cut_backbone import CutBackbone
from extract.decoding.policy import DecodePolicy
from extract.engines.processor import find_processor
from extract.load import load_image
from extract.plan import hash_path
from features.catalog.tables import ImageRow

TOLERANCES = {Precision.FLOAT32: 0.005, Precision.BFLOAT16: 0.15, Precision.INT8: 0.5}
"""Largest accepted difference of a picture's features, relative to their norm.

docs/explanation/reliability.md has the measurements.
"""
_SMALLEST_NORM = 1e-6


class WrongEngineError(HeadstartError):
    """Engine whose features differ from those of plain Keras by more than its precision explains."""


def compare_with_keras(
    images: Iterable[ImageRow], config: ExtractConfig, backbone: CutBackbone, policy: DecodePolicy
) -> NDArray[np.float64]:
    """Compute the features of the first usable pictures with the engine and with plain Keras, and compare them.

    Args:
        images: pictures of the run.
        config: options of the extraction, with a concrete engine and precision.
        backbone: backbone that computes the new features.
        policy: decode policy of the new features.

    Returns:
        The relative difference of each picture at each cut, (num_cuts, n); n is `NUM_ROWS` if enough are usable.

    Raises:
        WrongEngineError: the features of a picture at a cut differ by more than the tolerance of the precision.
    """
    views = _load_first_views(images, config, backbone, policy)
    if not views:
        return np.zeros((len(config.cuts), 0))
    batch = np.stack(list(views.values()))
    outputs = zip(backbone.run(batch), run_keras(backbone, batch), strict=True)
    differences = np.stack([measure_errors(computed, expected) for computed, expected in outputs])
    cut, row = np.unravel_index(np.argmax(differences), differences.shape)  # The first NaN, if there is one.
    tolerance = TOLERANCES[config.precision]
    if not differences[cut, row] <= tolerance:
        processor = find_processor().describe(backbone.streams.num_cores)
        raise WrongEngineError(
            f"--engine {config.engine} --precision {config.precision}",
            f"the features of Keras in float32, with a difference of at most {tolerance:g} of their norm",
            f"a difference of {differences[cut, row]:.2g} at {config.cuts[cut]} for {list(views)[row]} on {processor}",
            _advise(config.engine, config.precision),
        )
    return differences


def _load_first_views(
    images: Iterable[ImageRow], config: ExtractConfig, backbone: CutBackbone, policy: DecodePolicy
) -> dict[str, NDArray[np.float32]]:
    """Load view 0 of the first `NUM_ROWS` usable pictures in the order of reading."""
    views: dict[str, NDArray[np.float32]] = {}
    for image in sorted(images, key=hash_path):
        loaded = load_image(image, config, backbone.prepare, lambda *_: [0], policy)
        if loaded.views:
            views[image.path] = loaded.views[0]
        if len(views) == NUM_ROWS:
            break
    return views


def run_keras(backbone: CutBackbone, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the features of each cut that Keras computes layer by layer, without a graph.

    Keras keeps the outputs of all layers until the last one, so large pictures are computed a few at a time.
    """
    import keras

    model, size = join_cuts(list(backbone.models.values())), max(1, choose_batch_size(0, batch.shape[1]) // 4)
    starts = range(0, len(batch), size)
    # Keras returns an array instead of a list for a single output.
    parts = [keras.tree.flatten(model(batch[start : start + size], training=False)) for start in starts]
    return [np.concatenate([part.numpy() for part in outputs]) for outputs in zip(*parts, strict=True)]


def measure_errors(computed: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the norm of the difference of each row, relative to that of the expected row; (n,) float64.

    It is relative to the root mean square of all expected norms if that is larger: the features of a gray picture are
    near zero, and rounding errors are not small beside them. An expected row with NaN or infinity gives 0, because the
    weights cause it and not the engine.
    """
    is_finite = np.isfinite(expected).reshape(len(expected), -1).all(axis=1)
    ours, theirs = (array.reshape(len(array), -1)[is_finite].astype(np.float64) for array in (computed, expected))
    norms, differences = np.linalg.norm(theirs, axis=1), np.zeros(len(expected))
    mean = np.linalg.norm(norms) / np.sqrt(max(1, len(norms)))
    with np.errstate(invalid="ignore"):
        errors = np.linalg.norm(ours - theirs, axis=1)
    differences[is_finite] = errors / np.maximum(norms, max(mean, _SMALLEST_NORM))
    return differences


def _advise(engine: EngineName, precision: Precision) -> str:
    if engine is not EngineName.TENSORFLOW:
        return "Give --engine tensorflow" + " --precision float32" * (precision is Precision.INT8)
    if precision is not Precision.FLOAT32:
        return "Give --precision float32"
    return "Set TF_ENABLE_ONEDNN_OPTS=0, or give --engine openvino"
