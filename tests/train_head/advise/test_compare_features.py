"""Comparisons of the features in a store, and the command that they suggest."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import FeatureStoreError, HeadstartError, UsageError
from base.options import make_options
from base.terminal import Console
from features.labels import LabelSource
from features.options import Compression
from features.packed.write import pack_store
from features.schema import Features
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.commands import run_command
from tests.errors import raises
from tests.train_head.synthetic import FINGERPRINT, draw_features, list_paths, make_store
from train_head.advise.advice import Advice, advise
from train_head.advise.config import AdviseConfig
from train_head.config import TrainConfig
from train_head.prepare import prepare_training

pytestmark = pytest.mark.unit
PATHS = list_paths({"train/cats": 30, "train/dogs": 30, "validation/cats": 5, "validation/dogs": 5})


def draw_noisy_features() -> Features:
    """Draw features whose means over the places separate the classes, and whose values at the places hardly do."""
    noise = np.random.default_rng(0).normal(scale=4, size=(len(PATHS), 7, 7, 2))
    classes = np.array([path.split("/")[1] == "dogs" for path in PATHS])
    values = noise - noise.mean(axis=(1, 2), keepdims=True) + classes[:, None, None, None] / 4
    return np.asarray(values, np.float16)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of features whose means are better than their values; not changed."""
    folder = tmp_path_factory.mktemp("advise") / "store"
    make_store(folder, PATHS, features=draw_noisy_features(), images_folder="/pictures")
    return folder


def ask(quiet: Console, **options: object) -> Advice:
    return advise(make_options(AdviseConfig, options, "advise"), quiet)


def make_small_store(folder: Path, counts: Mapping[str, int]) -> Path:
    make_store(folder, list_paths(dict(counts)))
    return folder


def test_advise_on_a_store_recommends_significantly_better_features(noisy: Path, quiet: Console) -> None:
    advice = ask(quiet, store=noisy)
    (comparison,) = advice.comparisons
    flat, means = comparison.rows
    assert (comparison.num_pictures, comparison.num_classes, comparison.largest_class_share) == (60, 2, 0.5)
    assert (means.accuracy, comparison.best) == (1.0, means)
    assert means.difference
    assert means.difference.is_better
    assert flat.difference is None
    assert comparison.curve
    assert comparison.curve.num_train == [15, 30, 60]


def test_advise_suggests_a_command_that_trains_on_the_recommended_features(
    noisy: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base.invocation._program", ["headstart", "advise"])
    assert ask(quiet, store=noisy).command.startswith("headstart train ")
    monkeypatch.setattr("base.invocation._program", ["python", "-m", "train_head.advise"])
    _, _, module, *words = shlex.split(ask(quiet, store=noisy).command)
    options = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert (module, options["store"], options["solver"]) == ("train_head", str(noisy), "ridge")
    store = prepare_training(make_options(TrainConfig, options, "train")).store
    assert store.feature_shape == (2,)


def test_advise_on_equal_features_suggests_no_command(tmp_path: Path, quiet: Console) -> None:
    advice = ask(quiet, store=make_small_store(tmp_path / "store", {"train/cats": 12, "train/dogs": 12}))
    assert advice.command == ""
    assert advice.comparisons[0].best is advice.comparisons[0].rows[0]
    assert advice.to_json()["comparisons"][0]["best"] is None
    assert str(advice)


def test_advise_leaves_out_pictures_for_validation_and_copies(tmp_path: Path, quiet: Console) -> None:
    paths = [*PATHS[:60], *(f"train/dogs/copy{number}.jpg" for number in range(4))]
    contents = [bytes([4 * (7 * number % 60)]) * 32 for number in [*range(60), *range(56, 60)]]
    make_store(tmp_path / "store", paths, contents=contents)
    (comparison,) = ask(quiet, store=tmp_path / "store").comparisons
    # Without validation/, the fifth of the pictures with the lowest content hashes is for validation.
    assert comparison.num_pictures == sum(content[0] >= 256 / 5 for content in contents[:60])


def test_advise_on_several_layers_compares_each_and_all_of_them(tmp_path: Path, quiet: Console) -> None:
    for cut in ("mixed5", "mixed7"):
        fingerprint = replace(FINGERPRINT, cut=cut, pool="avg")
        make_store(tmp_path / "cuts" / cut, PATHS, features=draw_features(PATHS, (3,)), fingerprint=fingerprint)
    (comparison,) = ask(quiet, store=tmp_path / "cuts").comparisons
    assert [row.setting.train for row in comparison.rows] == [
        {"cut": "mixed5,mixed7"},
        {"cut": "mixed5"},
        {"cut": "mixed7"},
    ]
    assert [row.setting.num_inputs for row in comparison.rows] == [6, 3, 3]


@pytest.mark.parametrize(
    ("counts", "num_alone"),
    [
        ({"train/cats": 3, "train/dogs": 2, "validation/cats": 1}, 0),
        ({"train/cats": 1, "train/dogs": 1, "train/owls": 1, "validation/cats": 1}, 3),
        ({"train/cats": 4, "train/dogs": 1, "validation/cats": 1}, 1),
    ],
)
def test_advise_on_few_pictures_gives_intervals_and_no_learning_curve(
    counts: dict[str, int], num_alone: int, tmp_path: Path, quiet: Console
) -> None:
    advice = ask(quiet, store=make_small_store(tmp_path / "store", counts))
    (comparison,) = advice.comparisons
    assert (comparison.curve, advice.command, comparison.num_alone) == (None, "", num_alone)
    assert all(row.interval.high - row.interval.low > 0.3 for row in comparison.rows)
    # No gain in accuracy is above 1.
    assert comparison.detectable is None
    assert str(advice)


def test_advise_on_many_classes_is_measured_on_all_of_them(tmp_path: Path, quiet: Console) -> None:
    paths = [f"train/c{number:03}/{copy}.jpg" for number in range(100) for copy in range(3)]
    features = np.random.default_rng(0).random((300, 2, 2, 4))
    features += np.repeat(np.random.default_rng(1).random((100, 1, 1, 4)) * 9, 3, axis=0)
    make_store(tmp_path / "store", [*paths, "validation/c000/x.jpg"], features=np.vstack([features, features[:1]]))
    (comparison,) = ask(quiet, store=tmp_path / "store").comparisons
    assert (comparison.num_classes, comparison.num_pictures) == (100, 300)
    assert comparison.curve
    assert comparison.curve.num_train == [75, 150, 300]


def test_advise_on_a_packed_store_equals_the_store(noisy: Path, tmp_path: Path, quiet: Console) -> None:
    pack_store(FeatureStore(noisy), tmp_path / "store.h5", Compression.GZIP, lambda _: None)
    packed, stored = (ask(quiet, store=path).comparisons[0] for path in (tmp_path / "store.h5", noisy))
    assert [row.accuracy for row in packed.rows] == [row.accuracy for row in stored.rows]


def test_advise_without_a_store_and_pictures_is_usage_error(quiet: Console) -> None:
    with raises(UsageError, where="--store"):
        ask(quiet)


def test_advise_on_one_class_is_an_error(tmp_path: Path, quiet: Console) -> None:
    store = make_small_store(tmp_path / "store", {"train/cats": 3, "validation/dogs": 1})
    with raises(HeadstartError, where=store, got="3 different pictures of 1 class"):
        ask(quiet, store=store)


def test_advise_on_several_labels_a_picture_is_an_error(tmp_path: Path, quiet: Console) -> None:
    store = make_small_store(tmp_path / "store", {"train/cats": 3, "train/dogs": 3})
    source = LabelSource("labels.csv", "0", "path", ("labels",), is_multi_label=True)
    with FeatureWriter(store, FINGERPRINT, FeatureStore(store).origin) as writer:
        writer.update_images(FeatureStore(store).images, [], source)
    with raises(FeatureStoreError, where=store):
        ask(quiet, store=store)


def test_advise_with_pictures_of_another_folder_is_an_error(noisy: Path, tmp_path: Path, quiet: Console) -> None:
    with raises(HeadstartError, where=noisy):
        ask(quiet, store=noisy, images=tmp_path)


def test_advise_command_prints_the_table_and_json(noisy: Path) -> None:
    done = run_command("train_head.advise.__main__", "--store", noisy, "--json")
    (comparison,) = done.json["comparisons"]
    assert [row["features"] for row in comparison["rows"]] == ["mixed0", "mixed0, avg"]
    assert comparison["best"] == "mixed0, avg"
    assert done.json["command"] in done.err
    assert run_command("train_head.advise.__main__").status == 2
