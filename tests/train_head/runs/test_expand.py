"""Expansion of a reduced head to all inputs."""

from __future__ import annotations

import functools
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
from features.options import Compression
from features.packed.write import pack_store
from features.schema import FeatureKey, FeatureStatus, ImageStatus
from features.shards.shard import SHARD_FOLDER
from features.store import Example, FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.train_head.synthetic import CLASSES, hash_text, list_paths, make_store
from tests.train_head.training import rewrite_manifest
from train_head.config import SolverName, TrainConfig
from train_head.data.split import split_examples
from train_head.runs.expand import compute_store_logits, expand_head
from train_head.runs.read import Run
from train_head.runs.record import LOGITS_FILE, REDUCTION_FILE
from train_head.runs.write import write_record
from train_head.solvers.head import HeadWeights
from train_head.train import train_head

pytestmark = pytest.mark.unit

FIELDS = ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")
SHAPE = (4, 4, 3)
PATHS = list_paths({f"train/{label}": 9 for label in CLASSES} | {f"validation/{label}": 4 for label in CLASSES})
KINDS = ["exact", "sketch"]

Fit = Callable[..., tuple[Run, FeatureStore]]


@pytest.fixture(scope="module")
def _fit_once(tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Callable[[str, int | None], Path]:
    """Function that returns a folder with `store` and `run`, and fits only once for the same arguments."""

    @functools.cache
    def fit(kind: str, rank: int | None) -> Path:
        folder = tmp_path_factory.mktemp("expand")
        features = np.random.default_rng(1).normal(0.5, 0.5, (len(PATHS), *SHAPE))
        for feature, path in zip(features, PATHS, strict=True):
            feature[..., CLASSES.index(path.split("/")[1])] += 0.5
        store = make_store(folder / "store", PATHS, features=features)
        options: dict[str, Any] = {"epochs": 10, "units": 8, "learning_rate": 0.01, "no_report": True}
        config = TrainConfig(store.path, folder / "run", solver=SolverName.REDUCED, rank=rank, **options)
        with pytest.MonkeyPatch.context() as patch:
            if kind == "sketch":
                patch.setattr("train_head.reduction.reduce.MAX_EXACT_ROWS", 8)
                patch.setattr("train_head.reduction.decompose.MAX_EXACT_ROWS", 8)
            train_head(config, quiet)
        return folder

    return fit


@pytest.fixture
def fit(_fit_once: Callable[[str, int | None], Path], tmp_path: Path) -> Fit:
    """Function that returns a copy of a run and its store: three classes, 27 training pictures, 48 inputs."""

    def copy(kind: str = "exact", rank: int | None = None) -> tuple[Run, FeatureStore]:
        for name in ("run", "store"):
            shutil.copytree(_fit_once(kind, rank) / name, tmp_path / name)
        return Run(tmp_path / "run"), FeatureStore(tmp_path / "store")

    return copy


def list_validation(store: FeatureStore) -> list[Example]:
    return split_examples(store.examples, 0.2).validation


def expand(run: Run, store: FeatureStore, console: Console) -> HeadWeights:
    return expand_head(run, store, list_validation(store), console)


def compute_dense_logits(head: HeadWeights, store: FeatureStore) -> NDArray[np.float64]:
    """Compute the logits of a head on all inputs for the validation features, from its definition."""
    validation = list_validation(store)
    inputs = store.read(validation).reshape(len(validation), -1).astype(np.float64)
    hidden = np.maximum(inputs @ head.input_kernel + head.input_bias, 0)
    return np.asarray(hidden @ head.output_kernel + head.output_bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [10, None])
def test_expand_head_gives_the_logits_of_the_fitted_head(fit: Fit, quiet: Console, kind: str, rank: int | None) -> None:
    run, store = fit(kind, rank)
    assert (run.record.solver, run.record.rank) == ("reduced", rank or 27)
    head, expected = run.read_head(), run.read_validation_logits()
    assert head.input_kernel.shape == (rank or 27, 8)
    expanded = expand(run, store, quiet)
    assert expanded.input_kernel.shape == (48, 8)
    assert expanded.input_kernel.dtype == np.float32
    for name in FIELDS[1:]:
        np.testing.assert_array_equal(getattr(expanded, name), getattr(head, name))
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(compute_dense_logits(expanded, store), expected, atol=1e-5)
    found = compute_store_logits(expanded, store, list_validation(store))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_expand_head_without_derived_files_gives_the_same_head(fit: Fit, quiet: Console, kind: str) -> None:
    run, store = fit(kind)
    expected = expand(run, store, quiet)
    shutil.rmtree(store.derived_folder)
    np.testing.assert_array_equal(expand(run, store, quiet).input_kernel, expected.input_kernel)
    assert not store.derived_folder.exists()


def relabel_pictures(store: FeatureStore) -> None:
    images = [image._replace(label="owls", path=image.path.replace("cats", "owls")) for image in store.images]
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        writer.update_images(images, [image.path for image in store.images])


def remove_pictures(store: FeatureStore) -> None:
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        writer.update_images([], [image.path for image in store.images if image.split == "train"])


def add_pictures(store: FeatureStore) -> None:
    names = [f"train/dogs/new-{number}.jpg" for number in range(5)]
    features = np.random.default_rng(3).normal(size=(5, *SHAPE)).astype(np.float16)
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        for name, feature in zip(names, features, strict=True):
            key = FeatureKey(hash_text(name), 0)
            writer.add_features([key], feature[None], [FeatureStatus.OK])
            writer.add_image(ImageRow(name, "dogs", "train", 1, 1, key.content_hash, ImageStatus.DONE))
        writer.commit()


@pytest.mark.parametrize("change", [relabel_pictures, remove_pictures, add_pictures])
@pytest.mark.parametrize("kind", KINDS)
def test_expand_head_after_a_change_of_the_pictures_gives_the_same_head(
    fit: Fit, quiet: Console, kind: str, change: Callable[[FeatureStore], None]
) -> None:
    run, store = fit(kind)
    expected, validation = expand(run, store, quiet), list_validation(store)
    shutil.rmtree(store.derived_folder)
    change(store)
    # The validation examples may come in any order.
    found = expand_head(run, FeatureStore(store.path), validation[::-1], quiet)
    np.testing.assert_array_equal(found.input_kernel, expected.input_kernel)


def test_expand_head_with_a_missing_shard_names_it(fit: Fit, quiet: Console) -> None:
    run, store = fit()
    validation, lost = list_validation(store), store.shards[1]
    (store.path / SHARD_FOLDER / lost.name).unlink()
    with pytest.raises(HeadstartError) as caught:
        expand_head(run, FeatureStore(store.path), validation, quiet)
    assert lost.name in f"{caught.value.where} {caught.value.got}"
    # A store whose catalog does not list the shard any more.
    left = [example.path for example in store.examples if example.shard != lost.number]
    other = make_store(store.path.parent / "other", left)
    with raises(HeadstartError, where=f"{other.path}, {lost.name}"):
        expand_head(run, other, validation, quiet)


def test_expand_head_from_a_packed_store_gives_the_same_logits(fit: Fit, tmp_path: Path, quiet: Console) -> None:
    run, store = fit()
    pack_store(store, tmp_path / "packed.h5", Compression.GZIP, lambda _: None)
    packed = FeatureStore(tmp_path / "packed.h5")
    example_of = {example.path: example for example in packed.examples}
    split = split_examples([example_of[example.path] for example in store.examples], 0.2)
    expanded = expand_head(run, packed, split.validation, quiet)
    np.testing.assert_allclose(compute_dense_logits(expanded, store), run.read_validation_logits(), atol=1e-5)


def test_expand_head_of_a_head_on_all_inputs_returns_it_without_reading_shards(fit: Fit, quiet: Console) -> None:
    run, store = fit()
    record = run.record.__class__(**{**vars(run.record), "solver": "full", "reduction": "", "rank": None})
    for name in (LOGITS_FILE, REDUCTION_FILE):
        (run.folder / name).unlink()
    write_record(run.folder, record)
    shutil.rmtree(store.path / SHARD_FOLDER)
    shutil.rmtree(store.derived_folder)
    run = Run(run.folder)
    head, expanded = run.read_head(), expand(run, store, quiet)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(expanded, name), getattr(head, name))
    assert not store.derived_folder.exists()


def change_a_logit(path: Path) -> None:
    logits = np.load(path)
    logits[3, 1] += 0.05
    np.save(path, logits)


def remove_a_row(path: Path) -> None:
    np.save(path, np.load(path)[1:])


def remove_all_rows(path: Path) -> None:
    np.save(path, np.load(path)[:0])


def write_nan(path: Path) -> None:
    logits = np.load(path)
    logits[0, 0] = np.nan
    np.save(path, logits)


def write_text(path: Path) -> None:
    path.write_text("no array")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, logits=np.zeros(3))


@pytest.mark.parametrize("name", [LOGITS_FILE, REDUCTION_FILE])
@pytest.mark.parametrize("change", [truncate, write_nothing, Path.unlink])
def test_expand_head_with_another_digest_of_a_file_names_the_file(
    fit: Fit, quiet: Console, name: str, change: Callable[[Path], None]
) -> None:
    run, store = fit()
    change(run.folder / name)
    with raises(HeadstartError, where=run.folder / name):
        expand(run, store, quiet)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (change_a_logit, ""),
        (remove_a_row, ""),
        (remove_all_rows, ""),
        (write_nan, LOGITS_FILE),
        (write_text, LOGITS_FILE),
        (truncate, LOGITS_FILE),
        (write_nothing, LOGITS_FILE),
        (write_archive, LOGITS_FILE),
    ],
)
def test_expand_head_with_wrong_logits_is_refused(
    fit: Fit, quiet: Console, change: Callable[[Path], None], where: str
) -> None:
    run, store = fit()
    change(run.folder / LOGITS_FILE)
    rewrite_manifest(run.folder)
    with raises(HeadstartError, where=run.folder / where):
        expand(Run(run.folder), store, quiet)


def remove_a_coefficient_row(arrays: dict[str, Any]) -> None:
    arrays["coefficients"] = arrays["coefficients"][1:]


def remove_coefficients(arrays: dict[str, Any]) -> None:
    del arrays["coefficients"]


def widen_coefficients(arrays: dict[str, Any]) -> None:
    arrays["coefficients"] = arrays["coefficients"].astype(np.float64)


def write_infinity(arrays: dict[str, Any]) -> None:
    arrays["coefficients"][2, 3] = np.inf


def shorten_hashes(arrays: dict[str, Any]) -> None:
    arrays["row_hashes"] = arrays["row_hashes"][:, :16]


def point_beyond_the_files(arrays: dict[str, Any]) -> None:
    arrays["row_files"][0] = len(arrays["files"])


def add_directions(arrays: dict[str, Any]) -> None:
    arrays["directions"] = np.ones((48, 27), np.float32)


def negate_coefficients(arrays: dict[str, Any]) -> None:
    arrays["coefficients"] *= -1


def reverse_directions(arrays: dict[str, Any]) -> None:
    arrays["directions"] = arrays["directions"][::-1].copy()


@pytest.mark.parametrize(
    ("kind", "change", "where"),
    [
        ("exact", remove_a_coefficient_row, REDUCTION_FILE),
        ("exact", remove_coefficients, REDUCTION_FILE),
        ("exact", widen_coefficients, REDUCTION_FILE),
        ("exact", write_infinity, REDUCTION_FILE),
        ("exact", shorten_hashes, REDUCTION_FILE),
        ("exact", point_beyond_the_files, REDUCTION_FILE),
        ("exact", add_directions, REDUCTION_FILE),
        # Valid arrays of another head give other logits.
        ("exact", negate_coefficients, ""),
        ("sketch", reverse_directions, ""),
    ],
)
def test_expand_head_with_wrong_arrays_is_refused(
    fit: Fit, quiet: Console, kind: str, change: Callable[[dict[str, Any]], None], where: str
) -> None:
    run, store = fit(kind, rank=10)
    with np.load(run.folder / REDUCTION_FILE) as file:
        arrays: dict[str, Any] = dict(file)
    change(arrays)
    np.savez(run.folder / REDUCTION_FILE, **arrays)
    rewrite_manifest(run.folder)
    with raises(HeadstartError, where=run.folder / where):
        expand(Run(run.folder), store, quiet)


def test_expand_head_with_a_truncated_reduction_of_the_right_digest_is_refused(fit: Fit, quiet: Console) -> None:
    run, store = fit()
    truncate(run.folder / REDUCTION_FILE)
    rewrite_manifest(run.folder)
    with raises(HeadstartError, where=run.folder / REDUCTION_FILE):
        expand(Run(run.folder), store, quiet)


def test_expand_head_from_a_store_with_other_features_of_the_pictures_is_refused(
    fit: Fit, tmp_path: Path, quiet: Console
) -> None:
    run, store = fit()
    features = store.read(store.examples)[::-1].copy()
    other = make_store(tmp_path / "other", [example.path for example in store.examples], features=features)
    with raises(HeadstartError, where=run.folder):
        expand(run, other, quiet)


def test_expand_head_with_verbose_logs_the_number_of_inputs(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    run, store = fit()
    expand(run, store, Console(ConsoleOptions(verbose=True)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{run.folder}: ")
    assert " 48 " in line
