"""The head: its layers and initial weights, saved weights, and heads restored from them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from tests.errors import raises
from tests.train_head.fits import FIELDS
from train_head.data.batches import Array
from train_head.solvers.head import (
    HeadWeights,
    TunedWeights,
    build_head,
    count_outputs,
    expand_probabilities,
    extract_weights,
    restore_head,
)

SHAPE = (3, 4, 5)


def draw_weights(num_inputs: int = 60, units: int = 7, outputs: int = 1, seed: int = 0) -> HeadWeights:
    rng = np.random.default_rng(seed)
    shapes = [(num_inputs, units), (units,), (units, outputs), (outputs,)]
    return HeadWeights(*[rng.normal(0, 0.3, shape).astype(np.float32) for shape in shapes])


def draw_inputs(count: int = 6) -> Array:
    return np.random.default_rng(9).random((count, *SHAPE), np.float32)


@pytest.mark.unit
@pytest.mark.parametrize(("num_classes", "outputs"), [(2, 1), (3, 3), (10, 10)])
def test_count_outputs_is_one_for_two_classes_else_one_per_class(num_classes: int, outputs: int) -> None:
    assert count_outputs(num_classes) == outputs


@pytest.mark.parametrize(("num_classes", "outputs", "activation"), [(2, 1, "sigmoid"), (4, 4, "softmax")])
def test_build_head_has_the_documented_layers(num_classes: int, outputs: int, activation: str) -> None:
    head = build_head(SHAPE, num_classes, units=7, dropout=0.25)
    assert [layer.name for layer in head.layers] == ["flatten", "hidden", "dropout", "probability"]
    assert head.input_shape == (None, *SHAPE)
    assert head.output_shape == (None, outputs)
    assert head.get_layer("hidden").activation.__name__ == "relu"
    assert head.get_layer("probability").activation.__name__ == activation
    assert head.get_layer("dropout").rate == 0.25
    assert [(w.path.split("/", 1)[1], tuple(w.shape)) for w in head.trainable_weights] == [
        ("hidden/kernel", (60, 7)),
        ("hidden/bias", (7,)),
        ("probability/kernel", (7, outputs)),
        ("probability/bias", (outputs,)),
    ]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_extract_weights_copies_each_array(num_classes: int) -> None:
    head = build_head(SHAPE, num_classes, units=7, dropout=0.2)
    weights = extract_weights(head)
    hidden, output = head.get_layer("hidden"), head.get_layer("probability")
    for array, variable in zip(
        weights.list_weights(), [hidden.kernel, hidden.bias, output.kernel, output.bias], strict=True
    ):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, variable.numpy())


def test_build_head_starts_glorot_uniform_with_zero_biases() -> None:
    weights = extract_weights(build_head((4, 4, 50), 3, units=200, dropout=0.2, seed=5))
    for kernel in (weights.input_kernel, weights.output_kernel):
        limit = np.sqrt(6 / sum(kernel.shape))
        assert np.abs(kernel).max() <= limit
        assert kernel.max() > 0.98 * limit
        assert kernel.min() < -0.98 * limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.06)
        assert kernel.mean() == pytest.approx(0, abs=0.1 * limit)
    assert not weights.input_bias.any()
    assert not weights.output_bias.any()


def test_build_head_with_a_seed_is_reproducible() -> None:
    first, again, other = (extract_weights(build_head(SHAPE, 2, units=7, dropout=0.2, seed=seed)) for seed in (1, 1, 2))
    for mine, theirs in zip(first.list_weights(), again.list_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.any(first.input_kernel == other.input_kernel)
    assert not np.any(first.output_kernel == other.output_kernel)


def test_build_head_draws_each_kernel_of_each_seed_independently() -> None:
    weights = [extract_weights(build_head((3,), 3, units=3, dropout=0.2, seed=seed)) for seed in (0, 1)]
    kernels = [kernel for head in weights for kernel in (head.input_kernel, head.output_kernel)]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


def test_build_head_with_the_largest_seed_builds() -> None:
    # TensorFlow's seeds have 32 bits, and the head derives two from one.
    weights = extract_weights(build_head((3,), 3, units=3, dropout=0.2, seed=2**32 - 1))
    assert np.abs(weights.input_kernel).max() > 0


def test_build_head_without_a_seed_starts_at_zero() -> None:
    weights = extract_weights(build_head((3,), 3, units=4, dropout=0.2, seed=None))
    assert [array.shape for array in weights.list_weights()] == [(3, 4), (4,), (4, 3), (3,)]
    assert not any(array.any() for array in weights.list_weights())


def test_build_head_regularizes_both_kernels_and_no_bias() -> None:
    head = build_head((3,), 3, units=4, dropout=0.2, l2=0.25)
    arrays = [np.full(array.shape, number, np.float32) for number, array in enumerate(head.get_weights(), 1)]
    head.set_weights(arrays)
    penalty = sum(float(loss) for loss in head.losses)
    assert penalty == pytest.approx(0.25 * (12 * 1 + 12 * 9))
    assert extract_weights(head).sum_squares() == 12 * 1 + 12 * 9


@pytest.mark.parametrize("outputs", [1, 3])
def test_restored_head_computes_its_definition_in_row_major_order(outputs: int) -> None:
    weights, inputs = draw_weights(outputs=outputs), draw_inputs()
    head = restore_head(weights, SHAPE, max(2, outputs), dropout=0.9)
    hidden = np.maximum(inputs.reshape(6, -1) @ weights.input_kernel + weights.input_bias, 0)
    logits = hidden @ weights.output_kernel + weights.output_bias
    expected = 1 / (1 + np.exp(-logits)) if outputs == 1 else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_on_batch(inputs), expected, rtol=0, atol=1e-6)


def save(path: Path, **arrays: Any) -> bytes:
    """Write weights with some arrays added or replaced, and return the bytes of the file."""
    np.savez(path / "head.npz", **(dict(zip(FIELDS, draw_weights().list_weights(), strict=True)) | arrays))
    return (path / "head.npz").read_bytes()


@pytest.mark.unit
def test_parse_restores_saved_weights_bit_for_bit(tmp_path: Path) -> None:
    weights = draw_weights(outputs=3)
    weights.save(tmp_path / "head.npz")
    parsed = HeadWeights.parse((tmp_path / "head.npz").read_bytes())
    for mine, theirs in zip(weights.list_weights(), parsed.list_weights(), strict=True):
        assert theirs.dtype == np.float32
        np.testing.assert_array_equal(mine, theirs)
    with np.load(tmp_path / "head.npz") as arrays:
        assert tuple(arrays) == FIELDS


@pytest.mark.unit
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95, 0.999])
def test_parse_of_a_truncated_file_fails(tmp_path: Path, share: float) -> None:
    data = save(tmp_path)
    with pytest.raises((ValueError, EOFError, OSError, zipfile.BadZipFile)):
        HeadWeights.parse(data[: int(len(data) * share)])


@pytest.mark.unit
def test_parse_of_a_file_with_a_flipped_bit_fails(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path))
    data[600] ^= 1
    with pytest.raises(zipfile.BadZipFile):
        HeadWeights.parse(bytes(data))


@pytest.mark.unit
def test_parse_of_pickled_objects_fails_without_running_them(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "sprung"), "w")

    trapped = np.array([Trap()], dtype=object)
    for data in (save(tmp_path, output_bias=trapped), pickle.dumps(trapped)):
        with pytest.raises(ValueError, match="allow_pickle"):
            HeadWeights.parse(data)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "array"),
    [
        pytest.param("hidden_kernel", np.zeros((60, 7)), id="float64"),
        pytest.param("hidden_kernel", np.zeros((60, 7, 1), np.float32), id="hidden-kernel-3-d"),
        pytest.param("hidden_bias", np.zeros((7, 1), np.float32), id="hidden-bias-2-d"),
        pytest.param("output_kernel", np.zeros(7, np.float32), id="output-kernel-1-d"),
        pytest.param("output_bias", np.zeros((1, 1), np.float32), id="output-bias-2-d"),
        pytest.param("output_bias", np.array([np.nan], np.float32), id="nan"),
        pytest.param("tail_conv2d", np.array([np.inf], np.float32), id="infinite-tail"),
    ],
)
def test_parse_of_invalid_arrays_fails(tmp_path: Path, name: str, array: NDArray[Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        HeadWeights.parse(save(tmp_path, **{name: array}))


@pytest.mark.unit
def test_parse_with_kernels_of_the_backbone_restores_tuned_weights(tmp_path: Path) -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    arrays: dict[str, Any] = draw_weights().to_arrays()
    tuned = TunedWeights(**arrays, tail={"conv2d_60": kernel})
    tuned.save(tmp_path / "head.npz")
    with np.load(tmp_path / "head.npz") as saved:
        assert tuple(saved) == (*FIELDS, "tail_conv2d_60")
    parsed = HeadWeights.parse((tmp_path / "head.npz").read_bytes())
    assert isinstance(parsed, TunedWeights)
    assert list(parsed.tail) == ["conv2d_60"]
    np.testing.assert_array_equal(parsed.tail["conv2d_60"], kernel)
    for mine, theirs in zip(parsed.list_weights(), tuned.list_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert type(HeadWeights.parse(save(tmp_path))) is HeadWeights


@pytest.mark.unit
def test_parse_of_a_file_without_an_array_names_it(tmp_path: Path) -> None:
    arrays = dict(zip(FIELDS, draw_weights().list_weights(), strict=True))
    del arrays["output_bias"]
    np.savez(tmp_path / "head.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="output_bias"):
        HeadWeights.parse((tmp_path / "head.npz").read_bytes())


@pytest.mark.parametrize("num_classes", [2, 3])
def test_restored_head_predicts_like_the_original_bit_for_bit(num_classes: int) -> None:
    head = build_head(SHAPE, num_classes, units=33, dropout=0.5, seed=4)
    rng = np.random.default_rng(1)
    head.set_weights([rng.normal(0, 0.2, w.shape).astype(np.float32) for w in head.get_weights()])
    restored = restore_head(extract_weights(head), SHAPE, num_classes, dropout=0.5)
    inputs = draw_inputs(20)
    np.testing.assert_array_equal(restored.predict_on_batch(inputs), head.predict_on_batch(inputs))


@pytest.mark.parametrize(("num_inputs", "outputs", "num_classes"), [(61, 1, 2), (60, 2, 2), (60, 1, 3), (60, 3, 4)])
def test_restore_head_of_other_shapes_raises_with_both(num_inputs: int, outputs: int, num_classes: int) -> None:
    weights, expected = draw_weights(num_inputs, outputs=outputs), count_outputs(num_classes)
    got = [(num_inputs, 7), (7,), (7, outputs), (outputs,)]
    with raises(HeadstartError, where="the fitted head", got=got) as caught:
        restore_head(weights, SHAPE, num_classes, dropout=0.2)
    assert str([(60, 7), (7,), (7, expected), (expected,)]) in caught.value.expected


@pytest.mark.unit
def test_expand_probabilities_of_a_sigmoid_adds_the_first_class() -> None:
    expanded = expand_probabilities(np.array([[0.25], [1.0], [0.0]], np.float32))
    assert expanded.dtype == np.float32
    assert expanded.tolist() == [[0.75, 0.25], [0.0, 1.0], [1.0, 0.0]]


@pytest.mark.unit
def test_expand_probabilities_of_a_softmax_returns_it_unchanged() -> None:
    outputs = np.array([[0.2, 0.3, 0.5]], np.float32)
    assert expand_probabilities(outputs) is outputs
