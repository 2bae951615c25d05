"""Detector of outliers of a run: threshold, rates, files, and which pictures take part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console
from features.cuts import open_store
from features.store import FeatureStore
from tests.train_head.synthetic import list_paths, make_example, make_store
from train_head.config import HeadConfig
from train_head.data.split import Split, split_examples
from train_head.evaluation import outliers
from train_head.evaluation.mahalanobis import ClassModel, fit_classes
from train_head.evaluation.outliers import OutlierDetector, fit_detector

pytestmark = pytest.mark.unit
MODEL = ClassModel(np.zeros(2, np.float32), np.eye(2, dtype=np.float32), np.zeros((2, 2), np.float32))


def make_detector(num_held_out: int, false_alarms: float) -> OutlierDetector:
    held_out = np.arange(1, num_held_out + 1, dtype=np.float32)
    return OutlierDetector(MODEL, held_out, np.array([1, 5, 200], np.float32), false_alarms)


@pytest.fixture
def split(two_classes: FeatureStore) -> Split:
    return split_examples(two_classes.examples, 0.2)


@pytest.mark.parametrize(
    ("num_held_out", "false_alarms", "threshold", "rate"),
    [(99, 0.01, 99, 0.01), (199, 0.01, 198, 0.01), (100, 0.1, 91, 10 / 101), (9, 0.01, 9, 0.1), (1, 0.5, 1, 0.5)],
)
def test_threshold_is_the_quantile_that_keeps_the_rate(
    num_held_out: int, false_alarms: float, threshold: float, rate: float
) -> None:
    detector = make_detector(num_held_out, false_alarms)
    assert detector.threshold == threshold
    assert detector.expected_rate == pytest.approx(rate)


def test_describe_counts_the_validation_pictures_above_the_threshold() -> None:
    found = make_detector(99, 0.01).describe()
    assert (found["num_rejected"], found["num_validation"], found["num_held_out"]) == (1, 3, 99)
    assert found["share_rejected"] == pytest.approx(1 / 3)
    low, high = found["share_rejected_interval"]
    assert 0 < low < 1 / 3 < high < 1


def test_rate_on_further_pictures_of_the_same_kind_is_the_chosen_one() -> None:
    rng = np.random.default_rng(0)
    train, further = (rng.gamma(2, size=(num, 12)).astype(np.float32) for num in (2000, 20_000))
    model, held_out = fit_classes(train, np.zeros(2000, np.int64))
    detector = OutlierDetector(model, np.sort(held_out), model.measure(further), 0.05)
    assert detector.describe()["share_rejected"] == pytest.approx(0.05, abs=0.01)


def test_fit_detector_measures_training_and_validation_pictures(
    two_classes: FeatureStore, split: Split, quiet: Console
) -> None:
    detector = fit_detector(two_classes, split, HeadConfig(), quiet)
    assert detector is not None
    assert (len(detector.held_out), len(detector.validation)) == (23, 8)
    assert (np.diff(detector.held_out) >= 0).all()
    pooled = two_classes.read(split.validation).mean(axis=(1, 2), dtype=np.float32).astype(np.float16)
    np.testing.assert_allclose(detector.validation, detector.model.measure(pooled), rtol=1e-5)


def test_fit_detector_of_a_pooled_store_is_the_same(two_classes: FeatureStore, split: Split, quiet: Console) -> None:
    pooled = open_store(two_classes.path, pool="avg")
    first, second = (fit_detector(store, split, HeadConfig(), quiet) for store in (two_classes, pooled))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.held_out, second.held_out)


def test_fit_detector_from_the_cache_or_in_another_order_is_the_same(
    own_store: Path, split: Split, quiet: Console
) -> None:
    store = FeatureStore(own_store)
    shuffled = replace(split, train=[*split.train[::-1]])
    found = [fit_detector(store, each, HeadConfig(), quiet) for each in (split, split, shuffled)]
    assert any(path.name.startswith("pooled-") for path in (own_store / "derived").iterdir())
    for other in found[1:]:
        assert found[0] is not None
        assert other is not None
        np.testing.assert_array_equal(other.held_out, found[0].held_out)


def test_fit_detector_uses_each_content_once(tmp_path: Path, quiet: Console) -> None:
    paths = [*list_paths({"train/cats": 6, "train/dogs": 6, "validation/cats": 2, "validation/dogs": 2})]
    contents = [make_example(path).content_hash for path in paths]
    contents[1] = contents[0]
    store = make_store(tmp_path / "store", paths, contents=contents)
    detector = fit_detector(store, split_examples(store.examples, 0.2), HeadConfig(), quiet)
    assert detector is not None
    assert len(detector.held_out) == 11


def test_fit_detector_of_many_pictures_takes_a_stratified_sample(
    two_classes: FeatureStore, split: Split, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliers, "MAX_PICTURES", 10)
    monkeypatch.setattr(outliers, "_BLOCK_PICTURES", 3)
    detector = fit_detector(two_classes, split, HeadConfig(), quiet)
    assert detector is not None
    assert (len(detector.held_out), len(detector.model.means), len(detector.validation)) == (10, 2, 8)


def test_fit_detector_of_classes_of_one_colour_is_none(tmp_path: Path, quiet: Console) -> None:
    paths = [*list_paths({"train/cats": 6, "train/dogs": 6, "validation/cats": 2, "validation/dogs": 2})]
    rows = np.array([[1, 0, 2] if "cats" in path else [0, 3, 1] for path in paths], np.float16)
    store = make_store(tmp_path / "store", paths, features=rows[:, None, None])
    assert fit_detector(store, split_examples(store.examples, 0.2), HeadConfig(), quiet) is None


@pytest.mark.parametrize("case", ["a picture a class", "fine-tuned"])
def test_fit_detector_without_pictures_to_leave_out_or_with_other_features_is_none(
    two_classes: FeatureStore, split: Split, quiet: Console, case: str
) -> None:
    config = HeadConfig(unfreeze_from="mixed6") if case == "fine-tuned" else HeadConfig()
    if case == "a picture a class":
        first = {example.label: example for example in split.train}
        split = replace(split, train=[*first.values()])
    assert fit_detector(two_classes, split, config, quiet) is None


def test_parse_reads_what_save_wrote(tmp_path: Path) -> None:
    detector = make_detector(5, 0.02)
    detector.save(tmp_path / "outliers.npz")
    found = OutlierDetector.parse((tmp_path / "outliers.npz").read_bytes())
    assert found.describe() == detector.describe()
    np.testing.assert_array_equal(found.model.kernel, MODEL.kernel)


@pytest.mark.parametrize(
    "changed",
    [
        {"held_out": np.zeros(0, np.float32)},
        {"held_out": np.array([np.nan], np.float32)},
        {"model": MODEL._replace(center=np.zeros(3, np.float32))},
        {"model": MODEL._replace(kernel=np.eye(3, dtype=np.float32))},
        {"false_alarms": 1.5},
    ],
)
def test_parse_invalid_arrays_is_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    replace(make_detector(5, 0.02), **changed).save(tmp_path / "outliers.npz")  # type: ignore[arg-type]
    with pytest.raises(ValueError):  # noqa: PT011
        OutlierDetector.parse((tmp_path / "outliers.npz").read_bytes())
