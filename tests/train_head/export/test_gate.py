"""`Reference` compares a converted model with the Keras model, and `FormatCheck` applies the limits."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from base.terminal import Console
from features.store import Example
from tests.train_head.synthetic import make_small_card
from train_head.data.batches import Array
from train_head.export.config import Dtype, Format
from train_head.export.gate import NUM_PICTURES, TOLERANCES, FormatCheck, Reference, vary_size
from train_head.export.outputs import Outputs
from train_head.export.pictures import Pictures
from train_head.runs.card import ModelCard

pytestmark = pytest.mark.unit

CARD = make_small_card(2)
CHECK = FormatCheck(Format.ONNX, Dtype.FLOAT32, 64, 0.0, 0.0, 0, "a.png")


def run_brightness(images: NDArray[Any]) -> Outputs:
    """Return the mean brightness as the probability of the second class, and ten times the mean as the distance."""
    means = images.mean(axis=(1, 2, 3)) / 255
    return Outputs(np.stack([1 - means, means], axis=1), 10 * means)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Iterator[Pictures]:
    """Ten pictures of one size, five dark ones of the first class and five bright ones of the second."""
    folder = tmp_path_factory.mktemp("gate")
    examples = []
    for number in range(10):
        grey, path = 20 + 25 * (number % 5 + 5 * (number // 5)) % 250, f"{number}.png"
        Image.new("RGB", (40, 30), (grey, grey, grey)).save(folder / path)
        examples.append(make_example(folder / path, CARD.classes[number >= 5]))
    with tempfile.TemporaryFile() as file:
        found = Pictures(folder, examples, CARD.image_size, file)
        found.load(quiet)
        yield found


def make_example(path: Path, label: str) -> Example:
    return Example(path.name, label, "validation", hashlib.sha256(path.read_bytes()).digest(), 0, 0)


def compare(
    pictures: Pictures,
    quiet: Console,
    run: Callable[[Array], Outputs],
    dtype: Dtype = Dtype.FLOAT32,
    card: ModelCard = CARD,
) -> FormatCheck:
    return Reference(run_brightness, pictures, card).compare(run, Format.ONNX, dtype, quiet)


def test_compare_of_the_same_model_is_ok(pictures: Pictures, quiet: Console) -> None:
    check = compare(pictures, quiet, run_brightness)
    assert check.ok
    assert (check.num_pictures, check.max_difference, check.num_changed) == (NUM_PICTURES, 0.0, 0)


def test_compare_runs_at_least_64_pictures_of_many_sizes(pictures: Pictures, quiet: Console) -> None:
    sizes = []

    def run(images: Array) -> Outputs:
        sizes.append(images.shape[1:3])
        return run_brightness(images)

    compare(pictures, quiet, run)
    assert len(sizes) == NUM_PICTURES
    assert len(set(sizes)) > NUM_PICTURES / 2


@pytest.mark.parametrize("dtype", list(Dtype))
def test_compare_with_a_difference_above_the_tolerance_lists_the_worst_picture(
    pictures: Pictures, quiet: Console, dtype: Dtype
) -> None:
    difference = 1.5 * TOLERANCES[dtype]

    def run(images: Array) -> Outputs:
        found = run_brightness(images)
        is_fourth = abs(images.mean() - 95) < 1
        return found._replace(
            probabilities=found.probabilities + difference * np.array([-1, 1], np.float32) * is_fourth
        )

    check = compare(pictures, quiet, run, dtype)
    assert check.max_difference == pytest.approx(difference, rel=0.01)
    assert check.worst_image == "3.png"
    assert not check.ok


def test_compare_with_nan_is_not_ok(pictures: Pictures, quiet: Console) -> None:
    check = compare(pictures, quiet, lambda images: Outputs(np.full((len(images), 2), np.nan, np.float32), None))
    assert not check.ok
    assert check.to_json()["max_difference"] is None


def test_compare_without_distances_of_the_keras_model_is_not_ok(pictures: Pictures, quiet: Console) -> None:
    check = compare(pictures, quiet, lambda images: run_brightness(images)._replace(distances=None))
    assert check.max_difference == 0
    assert not check.ok


def test_compare_of_int8_counts_correct_labels_lost_on_all_pictures(pictures: Pictures, quiet: Console) -> None:
    def run(images: Array) -> Outputs:
        return Outputs(
            np.tile(np.array([0.51, 0.49], np.float32), (len(images), 1)), 10 * images.mean(axis=(1, 2, 3)) / 255
        )

    check = compare(pictures, quiet, run, Dtype.INT8)
    expected = run_brightness(np.stack([pictures.read_raw(example) for example in pictures.loaded])).probabilities
    num_correct = int((expected.argmax(axis=1) == np.repeat([0, 1], 5)).sum())
    assert (check.num_lost, check.num_validation) == (num_correct - 5, 10)


def test_compare_of_several_labels_counts_changed_sets(pictures: Pictures, quiet: Console) -> None:
    card = replace(CARD, is_multi_label=True, thresholds=[0.0, 0.3])

    def run(images: Array) -> Outputs:
        return Outputs(np.tile(np.array([0.5, 0.0], np.float32), (len(images), 1)), None)

    check = compare(pictures, quiet, run, card=card)
    above = sum(run_brightness(pictures.read_raw(e)[None]).probabilities[0, 1] >= 0.3 for e in pictures.loaded)
    assert check.num_changed >= above


@pytest.mark.parametrize(
    ("change", "ok"),
    [
        ({"max_difference": 1e-4}, True),
        ({"max_difference": 1.1e-4}, False),
        ({"max_difference": 4e-3, "dtype": Dtype.FLOAT16}, True),
        ({"max_distance_difference": 2e-3}, False),
        ({"dtype": Dtype.INT8, "max_difference": 0.09, "num_lost": 2, "num_validation": 400}, True),
        ({"dtype": Dtype.INT8, "num_lost": 3, "num_validation": 400}, False),
        ({"dtype": Dtype.INT8, "num_lost": 1, "num_validation": 10}, True),
    ],
)
def test_format_check_ok_applies_the_limits_of_the_dtype(change: dict[str, object], ok: bool) -> None:
    assert replace(CHECK, **change).ok is ok  # type: ignore[arg-type]


def test_vary_size_of_a_single_pixel_keeps_it() -> None:
    assert vary_size(np.full((1, 1, 3), 7, np.uint8), 5).tolist() == [[[7.0, 7.0, 7.0]]]


def test_vary_size_of_a_large_picture_leaves_out_rows_and_columns() -> None:
    assert vary_size(np.zeros((4000, 4000, 3), np.uint8), 0).shape == (2000, 2000, 3)
