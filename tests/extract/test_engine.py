"""The TensorFlow engine: Keras's numbers, and rows that do not know each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.backbone import cut_backbone
from extract.engines import Engine
from extract.engines.tensorflow import TensorFlowEngine

if TYPE_CHECKING:
    import keras


def run(engine: Engine, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    (features,) = engine.run(batch)
    return features


@pytest.fixture(scope="module")
def model(source: keras.Model) -> keras.Model:
    return cut_backbone(source, "mixed7")


@pytest.fixture(scope="module")
def engine(model: keras.Model) -> TensorFlowEngine:
    return TensorFlowEngine(model)


@pytest.fixture(scope="module")
def batch() -> NDArray[np.float32]:
    return np.random.default_rng(17).uniform(-1, 1, (32, 75, 75, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def features(engine: TensorFlowEngine, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return run(engine, batch)


def test_engine_run_equals_keras_predict(
    model: keras.Model, features: NDArray[np.float32], batch: NDArray[np.float32]
) -> None:
    expected = model.predict(batch, verbose=0)
    assert features.shape == (32, 3, 3, 768)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * expected.std())
    assert expected.std() > 0.01


@pytest.mark.parametrize("size", [1, 3, 8, 31])
def test_engine_run_of_a_partial_batch_gives_the_same_bits_for_each_row(
    engine: TensorFlowEngine, features: NDArray[np.float32], batch: NDArray[np.float32], size: int
) -> None:
    np.testing.assert_array_equal(run(engine, batch[-size:]), features[-size:])


def test_engine_run_row_does_not_depend_on_its_neighbours_or_its_place(
    engine: TensorFlowEngine, features: NDArray[np.float32], batch: NDArray[np.float32]
) -> None:
    order = np.random.default_rng(1).permutation(32)
    np.testing.assert_array_equal(run(engine, batch[order]), features[order])
    others = np.full_like(batch, 1.0)
    others[7] = batch[7]
    np.testing.assert_array_equal(run(engine, others)[7], features[7])


def test_engine_keeps_the_weights_that_it_was_made_with(backbone: keras.Model, batch: NDArray[np.float32]) -> None:
    cut = cut_backbone(backbone, "conv2d")
    (kernel,) = kept = cut.get_weights()
    frozen = TensorFlowEngine(cut)
    before = run(frozen, batch[:2])
    try:
        cut.set_weights([kernel * 2])
        np.testing.assert_array_equal(run(frozen, batch[:2]), before)
    finally:
        cut.set_weights(kept)
