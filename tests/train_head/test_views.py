"""Trainings on several views of each picture: rows, batches, fits, runs and expansion."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from base.terminal import Console
from features.store import Example, FeatureStore
from tests.errors import raises
from tests.train_head import fits
from tests.train_head.fits import assert_same_fit, limit_memory, list_values
from tests.train_head.synthetic import CLASSES, add_views, draw_view, hash_text, list_paths, make_store
from tests.train_head.training import make_config, remove_options
from train_head.config import ClassWeight, OptimizerName
from train_head.data.batches import FeatureBatches, weigh_examples
from train_head.data.split import list_rows, split_examples
from train_head.runs.expand import TOLERANCE, expand_head
from train_head.runs.read import Run
from train_head.solvers import Fit, Problem, compute_reduced_shape
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights
from train_head.solvers.network import Batch, HeadTrainer, compute_probabilities
from train_head.solvers.reduced import fit_reduced
from train_head.train import train_head

PATHS = list_paths({"train/cats": 6, "train/dogs": 5, "validation/cats": 3, "validation/dogs": 3})
TRAIN = PATHS[:11]
IN_ORDER = sorted(TRAIN, key=hash_text)
"""Paths in the order of content hashes, as in every split."""
FEWER = "train/cats/02.jpg"
"""Picture with views 0 and 1 only: view 2 is not finite, and view 3 is not stored."""
VIEWS = {path: [0, 1] if path == FEWER else [0, 1, 2, 3] for path in TRAIN}
ROW_BYTES = 2 * 2 * 3 * 2
PATH_AND_VIEW = {
    draw_view(path, view).astype(np.float32).tobytes(): (path, view) for path in PATHS for view in range(5)
}


@pytest.fixture(params=[None, ROW_BYTES * 6, 0], ids=["all", "blocks of 6", "blocks of a batch"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Size of the blocks of features that are read at a time, in bytes; None if all are kept in memory."""
    num_bytes: int | None = request.param
    limit_memory(monkeypatch, num_bytes)
    return num_bytes


def store_views(folder: Path) -> FeatureStore:
    store = make_store(folder, PATHS)
    further = {path: [1, 2] if path == FEWER else [1, 2, 3] for path in TRAIN}
    return add_views(store, further, bad=[(FEWER, 2)])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store of 11 training and 6 validation pictures, one view of each; not to be changed."""
    return make_store(tmp_path_factory.mktemp("plain") / "store", PATHS)


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store of the same pictures with four views of each training picture, two usable ones of `FEWER`; read only."""
    return store_views(tmp_path_factory.mktemp("viewed") / "store")


@pytest.fixture
def own(viewed: FeatureStore, tmp_path: Path) -> FeatureStore:
    """Copy of `viewed` without cached factors."""
    return FeatureStore(shutil.copytree(viewed.path, tmp_path / "own", ignore=shutil.ignore_patterns("derived")))


@pytest.fixture(scope="module")
def informative(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store in which view 0 of a training picture is noise; only its other views depend on the class."""
    paths = list_paths({f"{split}/{label}": 12 for split in ("train", "validation") for label in ("cats", "dogs")})
    rng = np.random.default_rng(4)

    def draw(path: str, view: int) -> NDArray[np.float64]:
        feature = rng.normal(0, 0.3, (2, 2, 3))
        if view or path.startswith("validation"):
            feature[..., CLASSES.index(path.split("/")[1])] += 1
        return feature

    store = make_store(
        tmp_path_factory.mktemp("informative") / "store", paths, features=np.stack([draw(path, 0) for path in paths])
    )
    return add_views(store, {path: [1, 2] for path in paths if path.startswith("train")}, draw=draw)


def list_training_rows(store: FeatureStore, num_views: int | None = 4) -> list[Example]:
    return list_rows(store, split_examples(store.examples, 0.2).train, num_views)


def open_batches(
    store: FeatureStore, *, num_views: int = 4, seed: int | None = 0, batch_size: int = 4
) -> FeatureBatches:
    rows = list_training_rows(store, num_views)
    return FeatureBatches(store, rows, CLASSES[:2], batch_size=batch_size, seed=seed)


def read_epoch(batches: FeatureBatches, epoch: int) -> list[tuple[str, int]]:
    """Return the path and the view of each row of an epoch; assert their targets and weights."""
    seen = []
    for number in range(batches.num_batches):
        features, targets, weights = batches.read_batch(epoch * batches.num_batches + number)
        names = [PATH_AND_VIEW[feature.tobytes()] for feature in features]
        assert targets[:, 0].tolist() == [CLASSES.index(path.split("/")[1]) for path, _ in names]
        assert weights.tolist() == [1.0] * len(names)
        seen += names
    return seen


def solve(store: FeatureStore, views: int | None, console: Console, **options: object) -> Fit:
    config = replace(make_config(store, Path("run"), views=views), **options)  # type: ignore[arg-type]
    return fit_reduced(Problem(store, split_examples(store.examples, 0.2), config), Checkpoint(None), console)


def compute_dense_logits(head: HeadWeights, store: FeatureStore, examples: list[Example]) -> NDArray[np.float64]:
    """Compute the logits of a head on all inputs from its definition."""
    inputs = store.read(examples).reshape(len(examples), -1).astype(np.float64)
    hidden = np.maximum(inputs @ head.input_kernel + head.input_bias, 0)
    return np.asarray(hidden @ head.output_kernel + head.output_bias)


@pytest.mark.unit
def test_list_rows_lists_examples_then_their_other_finite_views(viewed: FeatureStore) -> None:
    def name(num_views: int | None) -> list[tuple[str, int]]:
        return [(row.path, row.view) for row in list_training_rows(viewed, num_views)]

    firsts = [(path, 0) for path in IN_ORDER]
    assert viewed.num_views == 4
    assert name(4) == firsts + [(path, view) for path in IN_ORDER for view in VIEWS[path][1:]]
    assert name(2) == firsts + [(path, 1) for path in IN_ORDER]
    assert name(1) == name(None) == firsts
    rows = list_training_rows(viewed)
    features = viewed.read(rows)
    assert [PATH_AND_VIEW[feature.astype(np.float32).tobytes()] for feature in features] == name(4)


@pytest.mark.unit
def test_batches_contain_each_picture_once_an_epoch_in_a_random_view(viewed: FeatureStore, memory: int | None) -> None:
    batches = open_batches(viewed)
    assert batches.in_memory == (memory is None)
    drawn = set()
    for epoch in range(12):
        seen = read_epoch(batches, epoch)
        assert sorted(path for path, _ in seen) == TRAIN
        drawn.update(seen)
    # Only finite stored views, and not the same view of all pictures.
    assert drawn <= {(path, view) for path in TRAIN for view in VIEWS[path]}
    assert {view for path, view in drawn if path == FEWER} == {0, 1}
    assert len({view for _, view in read_epoch(batches, 0)}) > 1


def test_batches_draw_views_uniformly(viewed: FeatureStore) -> None:
    batches = open_batches(viewed, batch_size=11)
    counts = Counter(name for epoch in range(200) for name in read_epoch(batches, epoch))
    assert set(counts) == {(path, view) for path in TRAIN for view in VIEWS[path]}
    for (path, view), count in counts.items():
        expected, num_views = 200 / len(VIEWS[path]), len(VIEWS[path])
        assert abs(count - expected) < 5 * np.sqrt(expected * (1 - 1 / num_views)), (path, view, count)


@pytest.mark.usefixtures("memory")
@pytest.mark.unit
def test_batches_draw_views_by_seed_and_epoch_alone(viewed: FeatureStore) -> None:
    batches = open_batches(viewed)
    epochs = [read_epoch(batches, epoch) for epoch in range(4)]
    assert len({tuple(sorted(seen)) for seen in epochs}) == 4
    fresh = open_batches(viewed)
    for epoch in (3, 1, 3):
        assert read_epoch(fresh, epoch) == epochs[epoch]
    other = read_epoch(open_batches(viewed, seed=1), 3)
    assert sorted(other) != sorted(epochs[3])


@pytest.mark.unit
def test_batches_have_the_same_order_of_pictures_with_and_without_views(viewed: FeatureStore) -> None:
    with_views, without = open_batches(viewed, seed=8), open_batches(viewed, num_views=1, seed=8)
    for epoch in range(3):
        order = [IN_ORDER[number] for number in np.random.default_rng((8, epoch)).permutation(11)]
        assert [path for path, _ in read_epoch(with_views, epoch)] == order
        assert read_epoch(without, epoch) == [(path, 0) for path in order]


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("order", ["views last", "views beside"])
@pytest.mark.unit
def test_list_in_order_returns_view_0_alone(viewed: FeatureStore, order: str) -> None:
    rows = list_training_rows(viewed)
    if order == "views beside":
        rows.sort(key=lambda row: (row.path, row.view))
    batches = FeatureBatches(viewed, rows, CLASSES[:2], batch_size=4, seed=0)
    assert sorted(path for path, _ in read_epoch(batches, 0)) == TRAIN
    listed = list(batches.iterate_in_order(4))
    assert [len(part) for part in listed] == [4, 4, 3]
    names = [PATH_AND_VIEW[feature.tobytes()] for feature in np.concatenate(listed)]
    assert names == [(path, 0) for path in (IN_ORDER if order == "views last" else TRAIN)]
    unseeded = FeatureBatches(viewed, rows, CLASSES[:2], batch_size=4, seed=None)
    assert read_epoch(unseeded, 1) == names


@pytest.mark.unit
def test_batches_with_balanced_classes_weight_pictures_not_views(viewed: FeatureStore) -> None:
    rows = list_training_rows(viewed)
    batches = FeatureBatches(viewed, rows, CLASSES[:2], batch_size=11, seed=0, class_weight=ClassWeight.BALANCED)
    _, targets, weights = batches.read_batch(0)
    np.testing.assert_allclose(weights, np.where(targets[:, 0] == 0, 11 / 12, 11 / 10), rtol=1e-6)


@pytest.mark.unit
def test_compute_reduced_shape_counts_views_as_rows(viewed: FeatureStore) -> None:
    problem = Problem(viewed, split_examples(viewed.examples, 0.2), make_config(viewed, Path("run"), views=4))
    sizes = compute_reduced_shape(problem)
    assert (sizes.num_rows, sizes.rank) == (42, 12)
    sizes = compute_reduced_shape(replace(problem, config=replace(problem.config, views=1)))
    assert (sizes.num_rows, sizes.rank) == (11, 11)


def test_fit_reduced_learns_from_all_views(informative: FeatureStore, quiet: Console) -> None:
    def measure_accuracy(views: int) -> float:
        fitted = solve(informative, views, quiet, epochs=30)
        validation = split_examples(informative.examples, 0.2).validation
        targets = [CLASSES.index(example.label) for example in validation]
        return float((fitted.validation_probabilities.argmax(axis=1) == targets).mean())

    assert measure_accuracy(3) == 1.0
    assert measure_accuracy(1) < 0.8


@pytest.mark.parametrize("class_weight", list(ClassWeight))
@pytest.mark.unit
def test_fit_reduced_weights_pictures_not_views(
    plain: FeatureStore, tmp_path: Path, quiet: Console, class_weight: ClassWeight
) -> None:
    # Cats have five views and dogs one, as after an interrupted extraction. The views of a picture are equal here.
    store = FeatureStore(shutil.copytree(plain.path, tmp_path / "store"))
    cats = [path for path in TRAIN if "cats" in path]
    store = add_views(store, {path: [1, 2, 3, 4] for path in cats}, draw=lambda path, _: draw_view(path, 0))
    # The learning rate is negligible, so the loss of the epoch is the loss of the initial head.
    still = {"optimizer": OptimizerName.SGD, "learning_rate": 1e-30, "dropout": 0.0, "epochs": 1}
    before = solve(store, 5, quiet, class_weight=class_weight, **still)
    targets = np.array([CLASSES.index(path.split("/")[1]) for path in IN_ORDER])
    losses = -np.log(before.train_probabilities[np.arange(11), targets])
    weights = weigh_examples(targets, class_weight)
    assert before.history[0].loss == pytest.approx((losses * weights).mean(), rel=1e-5)


@pytest.mark.unit
def test_fit_reduced_takes_as_many_steps_with_views_as_without(
    viewed: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    train_on_batch = HeadTrainer.train_on_batch

    def count(stepper: HeadTrainer, batch: Batch) -> tuple[float, int]:
        steps.append(len(batch.targets))
        return train_on_batch(stepper, batch)

    monkeypatch.setattr(HeadTrainer, "train_on_batch", count)
    for views in (1, 4):
        steps.clear()
        solve(viewed, views, quiet, epochs=2, batch_size=4)
        assert steps == [4, 4, 3] * 2


@pytest.mark.parametrize("solver", ["reduced", "full"])
def test_fit_with_views_returns_training_probabilities_of_view_0(
    own: FeatureStore, tmp_path: Path, quiet: Console, solver: str
) -> None:
    split = split_examples(own.examples, 0.2)
    if solver == "reduced":
        fitted = solve(own, 4, quiet)
        config = make_config(own, tmp_path / "run", views=4)
        train_head(config, quiet)
        head = expand_head(Run(config.run), own, split.validation, quiet)
    else:
        fitted = fits.fit(own, make_config(own, tmp_path / "run", views=4), quiet)
        head = fitted.weights
    expected = compute_probabilities(compute_dense_logits(head, own, split.train).astype(np.float32))
    assert expected.shape == (11, 2)
    assert np.ptp(expected[:6], axis=0).min() > 1e-3
    np.testing.assert_allclose(fitted.train_probabilities, expected, atol=1e-4)


def test_fit_full_with_views_is_reproducible_and_differs_from_one_view(
    viewed: FeatureStore, plain: FeatureStore, quiet: Console
) -> None:
    config = make_config(viewed, Path("run"), views=4, epochs=3)
    fitted = fits.fit(viewed, config, quiet)
    assert_same_fit(fits.fit(viewed, config, quiet), fitted)
    without = fits.fit(viewed, replace(config, views=1), quiet)
    assert list_values(without) != list_values(fitted)
    assert_same_fit(without, fits.fit(plain, replace(config, views=1), quiet))


@pytest.mark.unit
def test_fit_reduced_caches_factors_of_each_number_of_views(
    own: FeatureStore, plain: FeatureStore, quiet: Console
) -> None:
    first = solve(own, 1, quiet)
    third = solve(own, 3, quiet)
    assert first.reduction is not None
    assert third.reduction is not None
    assert first.reduction.key != third.reduction.key
    assert [len(fitted.reduction.expansion.row_views) for fitted in (first, third) if fitted.reduction] == [11, 32]
    assert_same_fit(solve(own, 1, quiet), first)
    assert_same_fit(solve(own, 3, quiet), third)
    assert_same_fit(solve(plain, 1, quiet), first)
    assert len(list(own.derived_folder.glob("factors-*"))) == 2


def test_train_uses_all_stored_views_by_default(
    own: FeatureStore, plain: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train_head(make_config(own, tmp_path / "all"), quiet)
    # Two of the views are missing.
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"{own.path}: 2 " in warning
    assert (metrics["views"], metrics["cut"], metrics["num_train"]) == (4, "mixed0", 11)
    assert json.loads((tmp_path / "all/metrics.json").read_text())["views"] == 4
    assert Run(tmp_path / "all").num_views == 4
    assert train_head(make_config(own, tmp_path / "one", views=1), quiet)["views"] == 1
    train_head(make_config(plain, tmp_path / "plain"), quiet)
    assert capsys.readouterr().err == ""
    one, four, without = (Run(tmp_path / name).read_head() for name in ("one", "all", "plain"))
    fits.assert_same_weights(one, without)
    assert one.input_kernel.shape == (11, 8)
    assert four.input_kernel.shape == (12, 8)


@pytest.mark.unit
def test_train_with_more_views_than_stored_fails(viewed: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    with raises(UsageError, where="--views", got=9) as caught:
        train_head(make_config(viewed, tmp_path / "run", views=9), quiet)
    assert "at most 4" in caught.value.expected
    assert list(tmp_path.iterdir()) == []


def test_train_after_views_were_added_fits_again_unless_their_number_is_given(
    own: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(own, tmp_path / "run")
    first = train_head(config, quiet)
    assert train_head(config, quiet) == first
    add_views(own, {path: [4] for path in TRAIN})
    assert train_head(replace(config, views=4), quiet) == first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run"]
    assert train_head(config, quiet)["views"] == 5
    (kept,) = (path for path in tmp_path.iterdir() if path.name.startswith("run-"))
    assert Run(kept).read_metrics() == first


def test_train_after_missing_views_were_added_fits_again_and_keeps_earlier_run(
    plain: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    shutil.copytree(plain.path, tmp_path / "store")
    partly = add_views(FeatureStore(tmp_path / "store"), {path: [1, 2] for path in TRAIN[:-3]})
    config = make_config(partly, tmp_path / "run")
    train_head(config, quiet)
    before = Run(config.run)
    whole = add_views(partly, {path: [1, 2] for path in TRAIN[-3:]})
    train_head(config, quiet)
    (kept,) = (path for path in tmp_path.iterdir() if path.name.startswith("run-"))
    assert Run(kept).record == before.record
    assert Run(config.run).record.views_sha256 != before.record.views_sha256
    assert Run(kept).find_split(whole).train == Run(config.run).find_split(whole).train


def test_train_again_on_run_without_option_views_uses_one_view(
    own: FeatureStore, plain: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(plain, tmp_path / "run")
    first = train_head(config, quiet)
    remove_options(config.run, ("views", "cut"))
    assert train_head(config, quiet) == first
    assert Run(config.run).num_views == 1
    viewed = make_config(own, tmp_path / "other", views=1)
    train_head(viewed, quiet)
    remove_options(viewed.run, ("views", "cut"))
    train_head(viewed, quiet)
    assert train_head(replace(viewed, views=None), quiet)["views"] == 4


@pytest.mark.parametrize("method", ["exact", "sketch"])
def test_expand_head_agrees_with_run_after_views_were_added(
    own: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    if method == "sketch":
        for module in ("reduce", "decompose"):
            monkeypatch.setattr(f"train_head.reduction.{module}.MAX_EXACT_ROWS", 8)
    config = make_config(own, tmp_path / "run", views=3, rank=9)
    train_head(config, quiet)
    run = Run(config.run)
    expected = run.read_validation_logits()
    split = split_examples(own.examples, 0.2)
    expanded = expand_head(run, own, split.validation, quiet)
    assert expanded.input_kernel.shape == (12, 8)
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(compute_dense_logits(expanded, own, split.validation), expected, atol=TOLERANCE / 10)
    shutil.rmtree(own.derived_folder)
    more = add_views(own, {path: [4, 5] for path in TRAIN})
    assert more.num_views == 6
    again = expand_head(run, more, split_examples(more.examples, 0.2).validation, quiet)
    np.testing.assert_allclose(again.input_kernel, expanded.input_kernel, atol=1e-4)


@pytest.mark.unit
def test_train_uses_views_for_all_pictures_of_the_same_content(tmp_path: Path, quiet: Console) -> None:
    contents = [hash_text(path) for path in PATHS]
    contents[1] = contents[0]
    store = make_store(tmp_path / "store", PATHS, contents=contents)
    store = add_views(store, {path: [1] for path in TRAIN if path != PATHS[1]})
    rows = list_training_rows(store, 2)
    assert len(rows) == 22
    both = [row for row in rows[11:] if row.path in PATHS[:2]]
    assert [row.path for row in both] == PATHS[:2]
    assert (both[0].shard, both[0].row) == (both[1].shard, both[1].row)
    sizes = compute_reduced_shape(
        Problem(store, split_examples(store.examples, 0.2), make_config(store, tmp_path, views=2))
    )
    assert (sizes.num_rows, sizes.rank) == (20, 12)
    fitted = solve(store, 2, quiet)
    first, second = (number for number, row in enumerate(rows[:11]) if row.path in PATHS[:2])
    np.testing.assert_array_equal(fitted.train_probabilities[first], fitted.train_probabilities[second])


def test_train_with_views_interrupted_resumes_and_gives_the_same_head(
    own: FeatureStore, tmp_path: Path, quiet: Console, eager: None
) -> None:
    train_head(make_config(own, tmp_path / "whole"), quiet)
    config = make_config(own, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_head(config, fits.InterruptingConsole(3))
    # Another number of views is another fit, which must not use the checkpoint.
    train_head(replace(config, views=1), quiet)
    train_head(make_config(own, tmp_path / "one", views=1), quiet)
    fits.assert_same_weights(Run(config.run).read_head(), Run(tmp_path / "one").read_head())
    with pytest.raises(KeyboardInterrupt):
        train_head(replace(config, overwrite=True), fits.InterruptingConsole(3))
    train_head(replace(config, overwrite=True), quiet)
    fits.assert_same_weights(Run(config.run).read_head(), Run(tmp_path / "whole").read_head())
