"""Engines: the values of Keras, and the same bits for a row in every batch, position and thread."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.backbone import cut_backbone, join_cuts
from extract.config import EngineName, Precision
from extract.engines import Engine, Streams, build_engine
from extract.engines.choose import list_instructions
from extract.engines.processor import find_processor
from extract.engines.tensorflow import TensorFlowEngine, cast_to_half
from features.schema import convert_to_half, round_features

if TYPE_CHECKING:
    import keras

STREAMS = Streams(num_cores=2, num_streams=2, num_threads=1)
TOLERANCES = {EngineName.TENSORFLOW: 1e-4, EngineName.OPENVINO: 1e-3}
needs_bfloat16 = pytest.mark.skipif(
    not list_instructions(find_processor(), Precision.BFLOAT16), reason="the processor does not support bfloat16"
)


@pytest.fixture(scope="module")
def model(source: keras.Model) -> keras.Model:
    """Model with two outputs, (7, 7, 256) and (7, 7, 288), and normalisations that change values."""
    return join_cuts([cut_backbone(source, cut) for cut in ("mixed0", "mixed2")])


@pytest.fixture(scope="module")
def batch() -> NDArray[np.float32]:
    return np.random.default_rng(17).uniform(-1, 1, (32, 75, 75, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=[EngineName.TENSORFLOW, EngineName.OPENVINO])
def name(request: pytest.FixtureRequest) -> EngineName:
    return EngineName(request.param)


@pytest.fixture(scope="module")
def engine(name: EngineName, model: keras.Model) -> Engine:
    """Engine for both outputs in float32."""
    return build_engine(name, Precision.FLOAT32, model, STREAMS)


@pytest.fixture(scope="module")
def expected(engine: Engine, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Features of the batch, by output."""
    return engine.run(batch)


def assert_equal(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        assert other.std() > 0.01
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * float(other.std()))


def test_engine_with_two_outputs_equals_keras_predict(
    name: EngineName, model: keras.Model, batch: NDArray[np.float32], expected: list[NDArray[np.float32]]
) -> None:
    assert [array.shape for array in expected] == [(32, 7, 7, 256), (32, 7, 7, 288)]
    assert_close(expected, model.predict(batch, verbose=0), TOLERANCES[name])


def test_engine_with_one_output_equals_keras_predict(
    name: EngineName, source: keras.Model, batch: NDArray[np.float32]
) -> None:
    cut = cut_backbone(source, "mixed0")
    for model in (cut, join_cuts([cut])):
        found = build_engine(name, Precision.FLOAT32, model, STREAMS).run(batch[:4])
        assert_close(found, [cut.predict(batch[:4], verbose=0)], TOLERANCES[name])


def test_engine_in_two_threads_returns_the_same_bits(
    engine: Engine, batch: NDArray[np.float32], expected: list[NDArray[np.float32]]
) -> None:
    batch, expected = batch[:8], [array[:8] for array in expected]
    backwards = engine.run(batch[::-1])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(engine.run, [batch, batch[::-1]] * 4))
    for forth, back in zip(found[::2], found[1::2], strict=True):
        assert_equal(forth, expected)
        assert_equal(back, backwards)


@pytest.mark.parametrize("size", [1, 3, 8, 31])
def test_engine_row_has_the_same_bits_in_a_smaller_batch(
    engine: Engine, batch: NDArray[np.float32], expected: list[NDArray[np.float32]], size: int
) -> None:
    assert_equal(engine.run(batch[-size:]), [array[-size:] for array in expected])


def test_engine_row_has_the_same_bits_at_another_position_and_with_other_rows(
    engine: Engine, batch: NDArray[np.float32], expected: list[NDArray[np.float32]]
) -> None:
    order = np.random.default_rng(1).permutation(len(batch))
    assert_equal(engine.run(batch[order]), [array[order] for array in expected])
    others = np.full_like(batch, 1.0)
    others[7] = batch[7]
    assert_equal([array[7] for array in engine.run(others)], [array[7] for array in expected])


def test_openvino_engine_disables_telemetry(source: keras.Model) -> None:
    build_engine(EngineName.OPENVINO, Precision.FLOAT32, cut_backbone(source, "conv2d"), STREAMS)
    assert sys.modules["openvino_telemetry"] is None


def test_engine_result_is_not_changed_by_a_later_run(engine: Engine, batch: NDArray[np.float32]) -> None:
    first = engine.run(batch)
    kept = [array.copy() for array in first]
    engine.run(batch[::-1])
    assert_equal(first, kept)


@needs_bfloat16
def test_engine_in_bfloat16_differs_slightly_and_does_not_change_float32(
    name: EngineName,
    engine: Engine,
    model: keras.Model,
    batch: NDArray[np.float32],
    expected: list[NDArray[np.float32]],
) -> None:
    batch, expected = batch[:8], [array[:8] for array in expected]
    rough = build_engine(name, Precision.BFLOAT16, model, STREAMS)
    rounded = rough.run(batch)
    later = build_engine(name, Precision.FLOAT32, model, STREAMS)

    for found, exact in zip(rounded, expected, strict=True):
        assert found.dtype == np.float32
        assert 0.001 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.1
    for again in (engine, later):
        assert_equal(again.run(batch), expected)
    with ThreadPoolExecutor(1) as pool:
        # One thread that runs both precisions in turn.
        assert_equal(pool.submit(rough.run, batch).result(), rounded)
        for again in (engine, later):
            assert_equal(pool.submit(again.run, batch).result(), expected)
        assert_equal(pool.submit(rough.run, batch).result(), rounded)


def test_tensorflow_engine_keeps_the_weights_it_was_built_with() -> None:
    import keras

    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.Conv2D(4, 3, use_bias=False)(pixels))
    engine, batch = TensorFlowEngine(model), np.ones((2, 8, 8, 3), np.float32)
    before = engine.run(batch)
    model.set_weights([model.get_weights()[0] * 2])
    assert_equal(engine.run(batch), before)
    assert before[0].any()


def test_round_features_with_the_cast_of_tensorflow_returns_the_bits_of_numpy() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[1:] + halves[:-1]) / 2
    largest = np.array([65_504, 65_519.996, 65_520, 1e9, np.inf, np.nan, 1e-45, 2**-126], np.float32)
    around = [np.nextafter(ties, np.float32(direction)) for direction in (0, np.inf)]
    positive = np.concatenate([halves, ties, *around, largest])
    values = np.concatenate([positive, -positive])
    assert np.array_equal(cast_to_half(values[:-1024]), convert_to_half(values[:-1024]), equal_nan=True)
    nans = np.array([[0x7F800001, 0xFFC12345]], np.uint32).view(np.float32)
    for rows in (values[:, None], values[None], nans):
        (found, statuses), (wanted, others) = round_features(rows, cast_to_half), round_features(rows)
        assert (found.tobytes(), statuses) == (wanted.tobytes(), others)
