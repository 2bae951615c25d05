"""A reduced run's head on all inputs: it says what the fitted one said, or there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.terminal import Console, ConsoleOptions
from features.catalog.tables import ImageRow
from features.packed.write import pack_store
from features.schema import FeatureKey, FeatureStatus, ImageStatus
from features.shards.compression import Compression
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.train_head.synthetic import CLASSES, hash_text, list_paths, make_store
from tests.train_head.training import reseal
from train_head.config import SolverName, TrainConfig
from train_head.data.split import split_examples
from train_head.runs.expand import compute_store_logits, expand_head
from train_head.runs.read import Run
from train_head.runs.record import LOGITS_FILE, REDUCTION_FILE
from train_head.solvers.head import HeadWeights, expand_probabilities, restore_head
from train_head.solvers.network import compute_probabilities
from train_head.train import train_head

FIELDS = ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")
SHAPE = (4, 4, 3)


PATHS = list_paths({f"train/{label}": 9 for label in CLASSES} | {f"validation/{label}": 4 for label in CLASSES})


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """A store of its own with three classes: 27 training and 12 validation pictures of 48 inputs."""
    features = np.random.default_rng(1).normal(0.5, 0.5, (len(PATHS), *SHAPE))
    for feature, path in zip(features, PATHS, strict=True):
        feature[..., CLASSES.index(path.split("/")[1])] += 0.5
    return make_store(tmp_path / "store", PATHS, features=features)


def train(store: FeatureStore, *, solver: SolverName = SolverName.REDUCED, rank: int | None = None) -> Run:
    config = TrainConfig(
        store.path,
        store.path.parent / "run",
        solver=solver,
        rank=rank,
        epochs=10,
        units=8,
        learning_rate=0.01,
        no_report=True,
        overwrite=True,
    )
    train_head(config, Console(ConsoleOptions(quiet=True)))
    return Run(config.run)


def lift(run: Run, store: FeatureStore, console: Console) -> HeadWeights:
    return expand_head(run, store, split_examples(store.examples, 0.2).validation, console)


def compute_dense_logits(head: HeadWeights, store: FeatureStore) -> NDArray[np.float64]:
    """What a head says of the validation features, written down from its definition."""
    validation = split_examples(store.examples, 0.2).validation
    inputs = store.read(validation).reshape(len(validation), -1).astype(np.float64)
    hidden = np.maximum(inputs @ head.hidden_kernel + head.hidden_bias, 0)
    return np.asarray(hidden @ head.output_kernel + head.output_bias)


def force_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reduce", "decompose"):
        monkeypatch.setattr(f"train_head.reduction.{module}.MAX_EXACT_ROWS", 8)


@pytest.mark.parametrize("way", ["exact", "sketch"])
@pytest.mark.parametrize("rank", [10, None])
def test_expand_head_of_a_reduced_run_says_what_the_fitted_head_said(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch, way: str, rank: int | None
) -> None:
    if way == "sketch":
        force_sketch(monkeypatch)
    run = train(store, rank=rank)
    assert (run.record.solver, run.record.rank) == ("reduced", rank or 27)
    head, expected = run.read_head(), run.read_validation_logits()
    assert head.hidden_kernel.shape == (rank or 27, 8)
    lifted = lift(run, store, quiet)
    assert lifted.hidden_kernel.shape == (48, 8)
    assert lifted.hidden_kernel.dtype == np.float32
    for name in FIELDS[1:]:
        np.testing.assert_array_equal(getattr(lifted, name), getattr(head, name))
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(compute_dense_logits(lifted, store), expected, atol=1e-5)
    np.testing.assert_allclose(
        compute_store_logits(lifted, store, split_examples(store.examples, 0.2).validation), expected, atol=1e-5
    )


def test_expand_head_fits_the_keras_head_and_agrees_with_the_written_predictions(
    store: FeatureStore, quiet: Console
) -> None:
    run = train(store)
    keras_head = restore_head(lift(run, store, quiet), SHAPE, 3, run.dropout)
    validation = split_examples(store.examples, 0.2).validation
    outputs = keras_head.predict_on_batch(store.read(validation).astype(np.float32))
    rows = [line.split(",") for line in (run.folder / "predictions.csv").read_text().splitlines()[1:]]
    written = [[float(value) for value in row[3:]] for row in rows]
    np.testing.assert_allclose(written, expand_probabilities(outputs), atol=1e-5)
    np.testing.assert_allclose(written, compute_probabilities(run.read_validation_logits()), atol=1e-6)


@pytest.mark.parametrize("way", ["exact", "sketch"])
def test_expand_head_needs_no_derived_file(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "sketch":
        force_sketch(monkeypatch)
    run = train(store)
    first = lift(run, store, quiet)
    shutil.rmtree(store.derived_folder)
    again = lift(run, store, quiet)
    np.testing.assert_array_equal(again.hidden_kernel, first.hidden_kernel)
    assert not store.derived_folder.exists()


def relabel(store: FeatureStore) -> None:
    images = [image._replace(label="owls", path=image.path.replace("cats", "owls")) for image in store.images]
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        writer.update_images(images, [image.path for image in store.images])


def remove_pictures(store: FeatureStore) -> None:
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        writer.update_images([], [image.path for image in store.images if image.split == "train"])


def add_others(store: FeatureStore) -> None:
    names = [f"train/dogs/new-{number}.jpg" for number in range(5)]
    features = np.random.default_rng(3).normal(size=(5, *SHAPE)).astype(np.float16)
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        for name, feature in zip(names, features, strict=True):
            key = FeatureKey(hash_text(name), 0)
            writer.add_features([key], feature[None], [FeatureStatus.OK])
            writer.add_image(ImageRow(name, "dogs", "train", 1, 1, key.content_hash, ImageStatus.DONE))
        writer.commit()


@pytest.mark.parametrize("change", [relabel, remove_pictures, add_others])
@pytest.mark.parametrize("way", ["exact", "sketch"])
def test_expand_head_does_not_depend_on_what_the_folder_holds_today(
    store: FeatureStore,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    change: Callable[[FeatureStore], None],
) -> None:
    if way == "sketch":
        force_sketch(monkeypatch)
    run = train(store)
    expected, validation = lift(run, store, quiet), split_examples(store.examples, 0.2).validation
    shutil.rmtree(store.derived_folder)
    change(store)
    # The run's own examples, in an order of the caller's.
    found = expand_head(run, FeatureStore(store.path), validation[::-1], quiet)
    np.testing.assert_array_equal(found.hidden_kernel, expected.hidden_kernel)


def test_expand_head_with_a_lost_shard_names_it(store: FeatureStore, quiet: Console) -> None:
    run, validation = train(store), split_examples(store.examples, 0.2).validation
    lost = store.shards[1]
    (store.path / SHARD_FOLDER / lost.name).unlink()
    with pytest.raises(HeadstartError) as caught:
        expand_head(run, FeatureStore(store.path), validation, quiet)
    assert lost.name in f"{caught.value.where} {caught.value.got}"
    # Once the catalog has forgotten it too.
    fresh = make_store(
        store.path.parent / "fresh", [path for path in PATHS if path not in list_shard(store, lost.number)]
    )
    with pytest.raises(HeadstartError) as caught:
        expand_head(run, fresh, validation, quiet)
    assert str(caught.value.where).endswith(lost.name)


def list_shard(store: FeatureStore, number: int) -> set[str]:
    return {example.path for example in store.examples if example.shard == number}


def test_expand_head_on_the_packed_store_says_the_same(store: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    run = train(store)
    pack_store(store, tmp_path / "packed.h5", Compression.GZIP, lambda _: None)
    packed = FeatureStore(tmp_path / "packed.h5")
    by_path = {example.path: example for example in packed.examples}
    split = split_examples([by_path[example.path] for example in store.examples], 0.2)
    lifted = expand_head(run, packed, split.validation, quiet)
    np.testing.assert_allclose(compute_dense_logits(lifted, store), run.read_validation_logits(), atol=1e-5)


def test_expand_head_of_a_full_run_returns_it_as_it_is_and_reads_no_shard(store: FeatureStore, quiet: Console) -> None:
    run = train(store, solver=SolverName.FULL)
    assert (run.record.solver, run.record.reduction) == ("full", "")
    shutil.rmtree(store.path / SHARD_FOLDER)
    head, lifted = run.read_head(), lift(run, store, quiet)
    assert head.hidden_kernel.shape == (48, 8)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(lifted, name), getattr(head, name))
    assert not store.derived_folder.exists()


def move_a_logit(path: Path) -> None:
    logits = np.load(path)
    logits[3, 1] += 0.01
    np.save(path, logits)


def lose_a_row(path: Path) -> None:
    np.save(path, np.load(path)[1:])


def lose_all_rows(path: Path) -> None:
    np.save(path, np.load(path)[:0])


def put_nan(path: Path) -> None:
    logits = np.load(path)
    logits[0, 0] = np.nan
    np.save(path, logits)


def write_text(path: Path) -> None:
    path.write_text("no array")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def write_an_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, logits=np.zeros(3))


@pytest.mark.parametrize(
    "tamper",
    [
        move_a_logit,
        lose_a_row,
        lose_all_rows,
        put_nan,
        write_text,
        truncate,
        empty,
        write_an_archive,
        Path.unlink,
    ],
)
def test_expand_head_with_tampered_logits_is_refused(
    store: FeatureStore, quiet: Console, tamper: Callable[[Path], None]
) -> None:
    run = train(store)
    tamper(run.folder / LOGITS_FILE)
    with pytest.raises(HeadstartError, match=r"--overwrite"):
        lift(run, store, quiet)


def write(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with np.load(path) as found:
        arrays: dict[str, Any] = dict(found)
    change(arrays)
    np.savez(path, **arrays)


def lose_a_coefficient_row(arrays: dict[str, Any]) -> None:
    arrays["coefficients"] = arrays["coefficients"][1:]


def lose_coefficients(arrays: dict[str, Any]) -> None:
    del arrays["coefficients"]


def widen_coefficients(arrays: dict[str, Any]) -> None:
    arrays["coefficients"] = arrays["coefficients"].astype(np.float64)


def put_infinity(arrays: dict[str, Any]) -> None:
    arrays["coefficients"][2, 3] = np.inf


def shorten_hashes(arrays: dict[str, Any]) -> None:
    arrays["row_hashes"] = arrays["row_hashes"][:, :16]


def point_beyond_the_files(arrays: dict[str, Any]) -> None:
    arrays["row_files"][0] = len(arrays["files"])


def add_directions(arrays: dict[str, Any]) -> None:
    arrays["directions"] = np.ones((48, 27), np.float32)


@pytest.mark.parametrize(
    "change",
    [
        lose_a_coefficient_row,
        lose_coefficients,
        widen_coefficients,
        put_infinity,
        shorten_hashes,
        point_beyond_the_files,
        add_directions,
    ],
)
def test_expand_head_with_other_arrays_than_were_written_names_the_file(
    store: FeatureStore, quiet: Console, change: Callable[[dict[str, Any]], None]
) -> None:
    run = train(store)
    write(run.folder / REDUCTION_FILE, change)
    reseal(run.folder)
    with pytest.raises(HeadstartError) as caught:
        lift(Run(run.folder), store, quiet)
    assert caught.value.where == run.folder / REDUCTION_FILE


@pytest.mark.parametrize("tamper", [truncate, empty, write_text])
def test_expand_head_with_a_damaged_reduction_names_the_file(
    store: FeatureStore, quiet: Console, tamper: Callable[[Path], None]
) -> None:
    run = train(store)
    tamper(run.folder / REDUCTION_FILE)
    with pytest.raises(HeadstartError) as caught:
        lift(run, store, quiet)
    assert caught.value.where == run.folder / REDUCTION_FILE


def turn_coefficients(arrays: dict[str, Any]) -> None:
    arrays["coefficients"] *= -1


def turn_directions(arrays: dict[str, Any]) -> None:
    arrays["directions"] = arrays["directions"][::-1].copy()


@pytest.mark.parametrize(("way", "change"), [("exact", turn_coefficients), ("sketch", turn_directions)])
def test_expand_head_with_the_reduction_of_another_head_is_refused(
    store: FeatureStore,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    change: Callable[[dict[str, Any]], None],
) -> None:
    if way == "sketch":
        force_sketch(monkeypatch)
    run = train(store, rank=10)
    write(run.folder / REDUCTION_FILE, change)
    reseal(run.folder)
    with pytest.raises(HeadstartError) as caught:
        lift(Run(run.folder), store, quiet)
    assert caught.value.where == run.folder


def test_expand_head_of_other_features_under_the_same_names_is_refused(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    run = train(store)
    features = store.read(store.examples)[::-1].copy()
    other = make_store(tmp_path / "other", [example.path for example in store.examples], features=features)
    with pytest.raises(HeadstartError, match="a head on all inputs whose logits agree within"):
        lift(run, other, quiet)


def test_expand_head_logs_the_difference_where_details_are_asked_for(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(store)
    lift(run, store, Console(ConsoleOptions(verbose=True)))
    assert f"{run.folder}: expanded to 48 inputs; logits differ by " in capsys.readouterr().err
