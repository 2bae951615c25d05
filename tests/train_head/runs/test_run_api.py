"""A run in Python: its properties, its probabilities, and how a notebook shows it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.synthetic import SHAPE
from tests.train_head.training import make_config
from train_head.config import SolverName
from train_head.runs.read import Run
from train_head.train import train_head

GOLDEN_RUN = Path(__file__).parents[2] / "golden/v1-run/run"


@pytest.fixture(scope="module")
def reduced(three_classes: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Run:
    folder = tmp_path_factory.mktemp("api") / "<b>run"
    train_head(make_config(three_classes, folder), quiet)
    return Run(folder)


def read_validation(run: Run, store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """Features of the validation pictures in the order of predictions.csv, and the probabilities in it."""
    example_of = {example.path: example for example in run.find_split(store).validation}
    predictions = run.read_predictions()
    _, probabilities = run.read_probabilities()
    return store.read([example_of[prediction.path] for prediction in predictions]), probabilities


@pytest.mark.parametrize("rank", [5, 12], ids=["exact", "sketch"])
@pytest.mark.parametrize("solver", [SolverName.REDUCED, SolverName.FULL])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_predict_proba_of_validation_features_is_what_the_run_recorded(
    request: pytest.FixtureRequest, tmp_path: Path, quiet: Console, solver: SolverName, rank: int, num_classes: int
) -> None:
    store = request.getfixturevalue({2: "two_classes", 3: "three_classes"}[num_classes])
    config = make_config(store, tmp_path / "run", solver=solver, rank=rank if solver is SolverName.REDUCED else None)
    train_head(config, quiet)
    run = Run(str(config.run))
    features, recorded = read_validation(run, store)
    found = run.predict_proba(features)
    assert found.dtype == np.float32
    assert found.shape == (len(features), num_classes)
    np.testing.assert_allclose(found, recorded, atol=1e-5)
    np.testing.assert_allclose(run.predict_proba(features.astype(np.float32)), found, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_predict_proba_needs_the_store_of_a_reduced_run_once(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    store = FeatureStore(shutil.copytree(two_classes.path, tmp_path / "store"))
    train_head(make_config(store, tmp_path / "run"), quiet)
    used, fresh = Run(tmp_path / "run"), Run(tmp_path / "run")
    features = store.read(store.examples)
    expected = used.predict_proba(features)
    shutil.rmtree(store.path)
    np.testing.assert_array_equal(used.predict_proba(features), expected)
    with pytest.raises(HeadstartError):
        fresh.predict_proba(features)


@pytest.mark.parametrize("shape", [(), (3,), (3, 12), (3, 2, 2, 4), (2, 2, 3)], ids=str)
def test_predict_proba_of_another_shape_is_a_usage_error(reduced: Run, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError) as raised:
        reduced.predict_proba(np.zeros(shape, np.float32))
    assert (raised.value.where, raised.value.got) == ("features", str(shape))


def test_predict_proba_of_no_features_has_no_rows(reduced: Run) -> None:
    assert reduced.predict_proba(np.zeros((0, *SHAPE), np.float16)).shape == (0, 3)


def test_predict_proba_of_a_fine_tuned_run_says_to_export_it(reduced: Run) -> None:
    tuned = Run(reduced.folder)
    tuned.record = replace(tuned.record, config={**tuned.record.config, "unfreeze_from": "mixed6"})
    with pytest.raises(UsageError) as raised:
        tuned.predict_proba(np.zeros((1, *SHAPE), np.float32))
    assert raised.value.where == reduced.folder


def test_run_has_its_parts_as_properties(reduced: Run) -> None:
    assert reduced.metrics == reduced.read_metrics()
    assert reduced.history == reduced.read_history()
    assert reduced.accuracy == reduced.metrics["val_accuracy"]
    assert reduced.classes == ["cats", "dogs", "owls"]
    assert reduced.options["units"] == 8
    assert reduced.head.hidden_kernel.shape == (12, 8)
    assert reduced.report_path is None
    with pytest.raises(HeadstartError):
        Run(reduced.folder / "nowhere")


def test_run_in_a_notebook_is_an_escaped_table(reduced: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(reduced.folder, tmp_path / "<i>copy"))
    (run.folder / "report.html").write_text("a report")
    shown = run._repr_html_()
    assert shown.startswith("<table>")
    assert "<i>" not in shown
    for text in (f"{run.accuracy:.4f}", "95 %", "reduced", "30 to train, 12 to validate", "report.html"):
        assert text in shown
    assert "report" not in reduced._repr_html_()
    assert repr(run) == f"Run({str(run.folder)!r}, solver='reduced', classes=['cats', 'dogs', 'owls'])"


def test_run_of_version_1_is_shown_too() -> None:
    run = Run(GOLDEN_RUN)
    assert f"{run.accuracy:.4f}" in run._repr_html_()
