"""A run in Python: its properties, its predictions, and its view in a notebook."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.synthetic import SHAPE
from tests.train_head.training import make_config
from train_head.config import SolverName
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.solvers.head import expand_probabilities, restore_head
from train_head.solvers.network import compute_probabilities
from train_head.train import train_head

GOLDEN_RUN = Path(__file__).parents[2] / "golden/v1-run/run"


@pytest.fixture(scope="module")
def reduced(three_classes: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Run:
    """Run of the reduced solver, not to be changed; its name contains markup."""
    folder = tmp_path_factory.mktemp("api") / "<b>run"
    train_head(make_config(three_classes, folder), quiet)
    return Run(folder)


def read_validation(run: Run, store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of the validation pictures and their recorded probabilities, in the same order."""
    example_of = {example.path: example for example in run.find_split(store).validation}
    predictions = run.read_predictions()
    _, probabilities = run.read_probabilities()
    return store.read([example_of[prediction.path] for prediction in predictions]), probabilities


def check_predict_proba(run: Run, store: FeatureStore) -> None:
    features, recorded = read_validation(run, store)
    found = run.predict_proba(features)
    assert found.dtype == np.float32
    assert found.shape == (len(features), len(run.classes))
    np.testing.assert_allclose(found, recorded, atol=1e-5)
    np.testing.assert_allclose(run.predict_proba(features.astype(np.float32)), found, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.unit
@pytest.mark.parametrize(("num_classes", "rank"), [(2, 5), (2, 12), (3, 5), (3, 12)])
def test_predict_proba_of_a_reduced_run_gives_the_recorded_probabilities(
    request: pytest.FixtureRequest, tmp_path: Path, quiet: Console, num_classes: int, rank: int
) -> None:
    store = request.getfixturevalue({2: "two_classes", 3: "three_classes"}[num_classes])
    train_head(make_config(store, tmp_path / "run", rank=rank, epochs=3), quiet)
    check_predict_proba(Run(str(tmp_path / "run")), store)


def test_predict_proba_of_a_full_run_gives_the_recorded_probabilities(
    three_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    train_head(make_config(three_classes, tmp_path / "run", solver=SolverName.FULL, epochs=2), quiet)
    check_predict_proba(Run(tmp_path / "run"), three_classes)


def test_expanded_head_in_keras_gives_the_recorded_probabilities(
    reduced: Run, three_classes: FeatureStore, quiet: Console
) -> None:
    validation = reduced.find_split(three_classes).validation
    head = restore_head(expand_head(reduced, three_classes, validation, quiet), SHAPE, 3, reduced.dropout)
    features, recorded = read_validation(reduced, three_classes)
    outputs = head.predict_on_batch(features.astype(np.float32))
    np.testing.assert_allclose(recorded, expand_probabilities(outputs), atol=1e-5)
    np.testing.assert_allclose(recorded, compute_probabilities(reduced.read_validation_logits()), atol=1e-6)


@pytest.mark.unit
def test_predict_proba_reads_the_store_of_a_reduced_run_once(own_store: Path, tmp_path: Path, quiet: Console) -> None:
    store = FeatureStore(own_store)
    train_head(make_config(store, tmp_path / "run", epochs=2), quiet)
    used, fresh = Run(tmp_path / "run"), Run(tmp_path / "run")
    features = store.read(store.examples)
    expected = used.predict_proba(features)
    shutil.rmtree(store.path)
    np.testing.assert_array_equal(used.predict_proba(features), expected)
    with pytest.raises(HeadstartError):
        fresh.predict_proba(features)


@pytest.mark.unit
@pytest.mark.parametrize("shape", [(), (3,), (3, 12), (3, 2, 2, 4), (2, 2, 3)], ids=str)
def test_predict_proba_of_another_shape_is_wrong_usage(reduced: Run, shape: tuple[int, ...]) -> None:
    with raises(UsageError, where="features", got=str(shape)):
        reduced.predict_proba(np.zeros(shape, np.float32))


@pytest.mark.unit
def test_predict_proba_of_no_features_has_no_rows(reduced: Run) -> None:
    assert reduced.predict_proba(np.zeros((0, *SHAPE), np.float16)).shape == (0, 3)


@pytest.mark.unit
def test_predict_proba_of_a_fine_tuned_run_is_wrong_usage(reduced: Run) -> None:
    tuned = Run(reduced.folder)
    tuned.record = replace(tuned.record, config={**tuned.record.config, "unfreeze_from": "mixed6"})
    with raises(UsageError, where=reduced.folder) as caught:
        tuned.predict_proba(np.zeros((1, *SHAPE), np.float32))
    assert "mixed6" in caught.value.got


@pytest.mark.unit
def test_run_properties_give_the_contents_of_its_files(reduced: Run) -> None:
    assert reduced.metrics == reduced.read_metrics()
    assert reduced.history == reduced.read_history()
    assert reduced.accuracy == reduced.metrics["val_accuracy"]
    assert reduced.classes == ["cats", "dogs", "owls"]
    assert reduced.options["units"] == 8
    assert reduced.head.input_kernel.shape == (12, 8)
    assert reduced.report_path is None
    with raises(HeadstartError, where=reduced.folder / "nowhere"):
        Run(reduced.folder / "nowhere")


@pytest.mark.unit
def test_run_in_a_notebook_is_an_escaped_table(reduced: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(reduced.folder, tmp_path / "<i>copy"))
    (run.folder / "report.html").write_text("a report")
    (run.folder / "curves.png").write_bytes(b"a plot")
    assert run.report_path == run.folder / "report.html"
    shown = run._repr_html_()
    assert "<table>" in shown
    assert "data:image/png;base64,YSBwbG90" in shown
    assert "<i>" not in shown
    for text in (f"{run.accuracy:.4f}", "reduced", "report.html"):
        assert text in shown
    assert "report" not in reduced._repr_html_()
    for text in (str(run.folder), f"accuracy={run.accuracy:.4f}", "'reduced'", "['cats', 'dogs', 'owls']"):
        assert text in repr(run)


@pytest.mark.unit
def test_run_with_folds_shows_their_mean_and_spread(reduced: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(reduced.folder)
    assert "±" not in repr(run) + run._repr_html_()
    folds = {"val_accuracies": [0.5, 0.75], "mean": 0.625, "std": 0.1768, "num_train": [3, 3]}
    metrics = run.metrics | {"folds": folds}
    monkeypatch.setattr(Run, "read_metrics", lambda _: metrics)
    for shown in (repr(run), run._repr_html_()):
        assert "0.6250 ± 0.1768" in shown


@pytest.mark.unit
def test_run_in_a_notebook_shows_weak_weights_only(reduced: Run) -> None:
    run = Run(reduced.folder)
    for weights, is_weak in (("nsfwjs", True), ("imagenet", False), ("mine.h5", False)):
        run.record = replace(run.record, weights=weights)
        assert (weights in run.weak_weights) == is_weak
        assert (weights in run._repr_html_()) == is_weak


@pytest.mark.unit
def test_run_in_a_notebook_without_its_folder_is_escaped_text(reduced: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(reduced.folder, tmp_path / "<i>copy"))
    shutil.rmtree(run.folder)
    assert "&lt;i&gt;copy" in run._repr_html_()


@pytest.mark.unit
def test_run_of_version_1_in_a_notebook_has_its_accuracy() -> None:
    run = Run(GOLDEN_RUN)
    assert f"{run.accuracy:.4f}" in run._repr_html_()
