"""Tables of a run: round trips, and the rows that are refused."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from tests.train_head.synthetic import make_example
from train_head.data.batches import Array
from train_head.evaluation.confusion import MAX_DENSE_CLASSES
from train_head.runs.tables import (
    RunExample,
    format_examples,
    format_history,
    format_predictions,
    parse_examples,
    parse_history,
    parse_predictions,
    parse_probabilities,
)
from train_head.solvers.history import Epoch

pytestmark = pytest.mark.unit

CLASSES = ["cats", "dogs"]
HASH = "0123456789abcdef" * 4
HISTORY = [Epoch(1, 0.7, 0.5, 0.6, 0.25, 0.0), Epoch(2, 0.5, 0.0, 0.4, 1.0, 0.125)]
EXAMPLE = RunExample("train", "cats", HASH, "train/cats/a.jpg", "shard.h5")


def test_parse_history_returns_the_formatted_epochs() -> None:
    assert parse_history(format_history(HISTORY)) == HISTORY


def test_parse_history_accepts_infinite_losses_in_the_last_epoch_only() -> None:
    diverged = Epoch(2, float("inf"), 0.5, 0.5, 0.5, 0.1)
    assert parse_history(format_history([HISTORY[0], diverged]))[1].loss == float("inf")
    with pytest.raises(ValueError, match="2"):
        parse_history(format_history([HISTORY[0], diverged, Epoch(3, 0.5, 0.5, 0.5, 0.5, 0.1)]))


@pytest.mark.parametrize(
    "history",
    [
        [],
        [Epoch(0, 0.7, 0.5, 0.6, 0.25, 0.1)],
        [Epoch(1, 0.7, 0.5, 0.6, 0.25, 0.1), Epoch(3, 0.7, 0.5, 0.6, 0.25, 0.1)],
        [Epoch(1, 0.7, 1.5, 0.6, 0.25, 0.1), HISTORY[1]],
        [Epoch(1, 0.7, 0.5, 0.6, -0.25, 0.1), HISTORY[1]],
        [Epoch(1, 0.7, 0.5, 0.6, 1.25, 0.1), HISTORY[1]],
        [Epoch(1, 0.7, -0.5, 0.6, 0.25, 0.1), HISTORY[1]],
        [Epoch(1, 0.7, 0.5, 0.6, 0.25, -0.1), HISTORY[1]],
        [Epoch(1, 0.7, 0.5, float("nan"), 0.25, 0.1), HISTORY[1]],
    ],
)
def test_parse_history_of_invalid_epochs_is_an_error(history: list[Epoch]) -> None:
    with pytest.raises(ValueError, match=r"epoch"):
        parse_history(format_history(history))


@pytest.mark.parametrize(
    "data", [b"", b"epoch\n1\n", b"epoch,loss,accuracy,val_loss,val_accuracy,seconds\n1,0.5\n", b'"\n']
)
def test_parse_history_of_another_table_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, csv.Error)):
        parse_history(data)


def test_parse_examples_returns_the_formatted_examples() -> None:
    examples = [EXAMPLE, RunExample("validation", "dogs", HASH[::-1], "validation/dogs/ä\nb.jpg")]
    found = parse_examples(format_examples(examples), CLASSES)
    assert found == examples
    assert [example.shard for example in found] == ["shard.h5", ""]


def test_parse_examples_of_version_1_has_no_shards() -> None:
    data = f"side,label,content_hash,path\ntrain,cats,{HASH},a.jpg\n".encode()
    assert parse_examples(data, CLASSES) == [RunExample("train", "cats", HASH, "a.jpg")]


@pytest.mark.parametrize(
    "example",
    [
        RunExample("test", "cats", HASH, "a.jpg"),
        RunExample("train", "owls", HASH, "a.jpg"),
        RunExample("train", "cats", HASH[:-1], "a.jpg"),
        RunExample("train", "cats", HASH.upper(), "a.jpg"),
        RunExample("train", "cats", HASH, "/a.jpg"),
        RunExample("train", "cats", HASH, "cats/../../a.jpg"),
        RunExample("train", "cats", HASH, "a\0.jpg"),
    ],
)
def test_parse_examples_with_an_invalid_value_names_the_picture(example: RunExample) -> None:
    with pytest.raises(ValueError, match=r"a(\0)?\.jpg"):
        parse_examples(format_examples([EXAMPLE, example]), CLASSES)


def format_prediction(path: str, *shares: float) -> bytes:
    return format_predictions([make_example(path)], CLASSES, np.array([shares], np.float32))


def test_parse_predictions_returns_the_formatted_predictions() -> None:
    (found,) = parse_predictions(format_prediction("validation/dogs/a.jpg", 0.25, 0.75), CLASSES)
    assert (found.path, found.label, found.predicted) == ("validation/dogs/a.jpg", "dogs", "dogs")
    assert found.probabilities == {"cats": 0.25, "dogs": 0.75}


@pytest.mark.parametrize(
    ("path", "shares"),
    [
        ("validation/owls/a.jpg", (0.25, 0.75)),
        ("validation/dogs/a.jpg", (0.25, 0.25)),
        ("validation/dogs/a.jpg", (-0.25, 1.25)),
        ("validation/dogs/a.jpg", (float("nan"), 0.5)),
        ("../dogs/a.jpg", (0.25, 0.75)),
    ],
)
def test_parse_predictions_with_an_invalid_value_names_the_picture(path: str, shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"a\.jpg"):
        parse_predictions(format_prediction(path, *shares), CLASSES)


def test_parse_predictions_without_pictures_or_of_other_classes_is_an_error() -> None:
    data = format_prediction("validation/dogs/a.jpg", 0.25, 0.75)
    with pytest.raises(ValueError, match="columns"):
        parse_predictions(data, ["cats", "owls"])
    with pytest.raises(ValueError, match="no pictures"):
        parse_predictions(data.splitlines(keepends=True)[0], CLASSES)


MANY = [str(number) for number in range(MAX_DENSE_CLASSES + 1)]


def draw_many(num_pictures: int = 3) -> Array:
    scores = np.random.default_rng(0).random((num_pictures, len(MANY)), np.float32)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True), np.float32)


def test_parse_predictions_of_many_classes_takes_the_probabilities_from_their_own_file() -> None:
    probabilities, examples = draw_many(), [make_example(f"{label}/a.jpg") for label in ("7", "100", "0")]
    table, file = format_predictions(examples, MANY, probabilities), io.BytesIO()
    np.save(file, probabilities)
    found = parse_predictions(table, MANY, parse_probabilities(file.getvalue()))
    assert max(map(len, table.splitlines())) < 60
    assert [prediction.label for prediction in found] == ["7", "100", "0"]
    for prediction, row in zip(found, probabilities, strict=True):
        assert list(prediction.probabilities) == MANY
        assert list(prediction.probabilities.values()) == row.tolist()
        assert prediction.predicted == MANY[int(row.argmax())]
        assert prediction.get_probability(prediction.label) == row[int(prediction.label)]


def test_parse_predictions_with_the_probabilities_of_other_pictures_is_an_error() -> None:
    table = format_predictions([make_example(f"{label}/a.jpg") for label in MANY[:3]], MANY, draw_many())
    with pytest.raises(ValueError, match="shape"):
        parse_predictions(table, MANY, draw_many(2))
    with pytest.raises(ValueError, match=r"0/a\.jpg"):
        parse_predictions(table, MANY, 2 * draw_many())
    with pytest.raises(ValueError, match="columns"):
        parse_predictions(table, MANY)


def test_parse_probabilities_of_another_array_is_an_error() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="shape"):
        parse_probabilities(file.getvalue())
