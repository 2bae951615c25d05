"""The head: its layers, its weights on disk, and heads built from them again."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from train_head.data.batches import Array
from train_head.solvers.head import (
    HeadWeights,
    build_head,
    count_outputs,
    expand_probabilities,
    extract_weights,
    restore_head,
)

FIELDS = ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")
SHAPE = (3, 4, 5)


def draw_weights(num_inputs: int = 60, units: int = 7, outputs: int = 1, seed: int = 0) -> HeadWeights:
    rng = np.random.default_rng(seed)
    shapes = [(num_inputs, units), (units,), (units, outputs), (outputs,)]
    return HeadWeights(*[rng.normal(0, 0.3, shape).astype(np.float32) for shape in shapes])


def draw_inputs(count: int = 6) -> Array:
    return np.random.default_rng(9).random((count, *SHAPE), np.float32)


def list_arrays(weights: HeadWeights) -> list[NDArray[np.float32]]:
    return [getattr(weights, name) for name in FIELDS]


@pytest.mark.parametrize(("num_classes", "outputs"), [(2, 1), (3, 3), (10, 10)])
def test_count_outputs_is_one_for_two_classes_else_one_each(num_classes: int, outputs: int) -> None:
    assert count_outputs(num_classes) == outputs


@pytest.mark.parametrize(("num_classes", "outputs", "activation"), [(2, 1, "sigmoid"), (4, 4, "softmax")])
def test_head_has_the_named_layers_in_order(num_classes: int, outputs: int, activation: str) -> None:
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
def test_extract_weights_keeps_the_layers_order(num_classes: int) -> None:
    head = build_head(SHAPE, num_classes, units=7, dropout=0.2)
    weights = extract_weights(head)
    hidden, output = head.get_layer("hidden"), head.get_layer("probability")
    for array, variable in zip(
        list_arrays(weights), [hidden.kernel, hidden.bias, output.kernel, output.bias], strict=True
    ):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, variable.numpy())


def test_head_starts_glorot_uniform_with_zero_biases() -> None:
    weights = extract_weights(build_head((4, 4, 50), 3, units=200, dropout=0.2, seed=5))
    for kernel in (weights.hidden_kernel, weights.output_kernel):
        limit = np.sqrt(6 / sum(kernel.shape))
        assert np.abs(kernel).max() <= limit
        assert kernel.max() > 0.98 * limit
        assert kernel.min() < -0.98 * limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.06)
        assert kernel.mean() == pytest.approx(0, abs=0.1 * limit)
    assert not weights.hidden_bias.any()
    assert not weights.output_bias.any()


def test_head_of_the_same_seed_starts_the_same_and_of_another_differs_everywhere() -> None:
    first, again, other = (extract_weights(build_head(SHAPE, 2, units=7, dropout=0.2, seed=seed)) for seed in (1, 1, 2))
    for mine, theirs in zip(list_arrays(first), list_arrays(again), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.any(first.hidden_kernel == other.hidden_kernel)
    assert not np.any(first.output_kernel == other.output_kernel)


def test_head_draws_every_kernel_of_every_seed_anew() -> None:
    weights = [extract_weights(build_head((3,), 3, units=3, dropout=0.2, seed=seed)) for seed in (0, 1)]
    kernels = [kernel for head in weights for kernel in (head.hidden_kernel, head.output_kernel)]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


@pytest.mark.parametrize("outputs", [1, 3])
def test_head_computes_dense_relu_dense_of_the_inputs_in_row_major_order(outputs: int) -> None:
    weights, inputs = draw_weights(outputs=outputs), draw_inputs()
    head = restore_head(weights, SHAPE, max(2, outputs), dropout=0.9)
    hidden = np.maximum(inputs.reshape(6, -1) @ weights.hidden_kernel + weights.hidden_bias, 0)
    logits = hidden @ weights.output_kernel + weights.output_bias
    expected = 1 / (1 + np.exp(-logits)) if outputs == 1 else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_on_batch(inputs), expected, rtol=0, atol=1e-6)


def save(path: Path, **arrays: Any) -> bytes:
    np.savez(path / "head.npz", **(dict(zip(FIELDS, list_arrays(draw_weights()), strict=True)) | arrays))
    return (path / "head.npz").read_bytes()


def test_saved_weights_parse_bit_for_bit(tmp_path: Path) -> None:
    weights = draw_weights(outputs=3)
    weights.save(tmp_path / "head.npz")
    parsed = HeadWeights.parse((tmp_path / "head.npz").read_bytes())
    for mine, theirs in zip(list_arrays(weights), list_arrays(parsed), strict=True):
        assert theirs.dtype == np.float32
        np.testing.assert_array_equal(mine, theirs)
    with np.load(tmp_path / "head.npz") as arrays:
        assert tuple(arrays) == FIELDS


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95, 0.999])
def test_parse_of_a_cut_off_file_is_refused(tmp_path: Path, share: float) -> None:
    data = save(tmp_path)
    with pytest.raises((ValueError, EOFError, OSError, zipfile.BadZipFile)):
        HeadWeights.parse(data[: int(len(data) * share)])


def test_parse_of_a_file_with_one_changed_byte_is_refused(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path))
    data[600] ^= 1
    with pytest.raises(zipfile.BadZipFile):
        HeadWeights.parse(bytes(data))


def test_parse_of_pickled_objects_is_refused_without_running_them(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "sprung"), "w")

    trapped = np.array([Trap()], dtype=object)
    for data in (save(tmp_path, output_bias=trapped), pickle.dumps(trapped)):
        with pytest.raises(ValueError, match="allow_pickle"):
            HeadWeights.parse(data)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        pytest.param("output_bias", np.zeros(1), id="float64"),
        pytest.param("output_bias", np.zeros((1, 1), np.float32), id="two dimensions"),
        pytest.param("output_bias", np.array([np.nan], np.float32), id="not finite"),
        pytest.param("tail_conv2d", np.array([np.inf], np.float32), id="of the tail not finite"),
    ],
)
def test_parse_of_other_arrays_is_refused(tmp_path: Path, name: str, array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="arrays of"):
        HeadWeights.parse(save(tmp_path, **{name: array}))


def test_parse_of_a_file_without_one_of_the_arrays_names_it(tmp_path: Path) -> None:
    arrays = dict(zip(FIELDS, list_arrays(draw_weights()), strict=True))
    del arrays["output_bias"]
    np.savez(tmp_path / "head.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="output_bias"):
        HeadWeights.parse((tmp_path / "head.npz").read_bytes())


@pytest.mark.parametrize("num_classes", [2, 3])
def test_restored_head_predicts_bit_for_bit_what_the_original_does(num_classes: int) -> None:
    head = build_head(SHAPE, num_classes, units=33, dropout=0.5, seed=4)
    rng = np.random.default_rng(1)
    head.set_weights([rng.normal(0, 0.2, w.shape).astype(np.float32) for w in head.get_weights()])
    restored = restore_head(extract_weights(head), SHAPE, num_classes, dropout=0.5)
    inputs = draw_inputs(20)
    np.testing.assert_array_equal(restored.predict_on_batch(inputs), head.predict_on_batch(inputs))


@pytest.mark.parametrize(("num_inputs", "outputs", "num_classes"), [(61, 1, 2), (60, 2, 2), (60, 1, 3), (60, 3, 4)])
def test_restore_of_arrays_that_do_not_fit_gives_both_shapes(num_inputs: int, outputs: int, num_classes: int) -> None:
    weights = draw_weights(num_inputs, outputs=outputs)
    with pytest.raises(HeadstartError) as caught:
        restore_head(weights, SHAPE, num_classes, dropout=0.2)
    asked = count_outputs(num_classes)
    assert f"expected arrays of shapes [(60, 7), (7,), (7, {asked}), ({asked},)]" in str(caught.value)
    assert f"got [({num_inputs}, 7), (7,), (7, {outputs}), ({outputs},)]" in str(caught.value)


def test_expand_probabilities_of_a_sigmoid_gives_the_first_class_the_rest() -> None:
    expanded = expand_probabilities(np.array([[0.25], [1.0], [0.0]], np.float32))
    assert expanded.dtype == np.float32
    assert expanded.tolist() == [[0.75, 0.25], [0.0, 1.0], [1.0, 0.0]]


def test_expand_probabilities_of_a_softmax_leaves_it() -> None:
    outputs = np.array([[0.2, 0.3, 0.5]], np.float32)
    assert expand_probabilities(outputs) is outputs
