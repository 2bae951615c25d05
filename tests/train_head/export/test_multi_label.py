"""Export of a head that predicts several labels, and predictions with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from base.errors import UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.commands import run_command
from tests.errors import raises
from tests.train_head.export.conftest import Exported
from tests.train_head.multi_label import write_labels
from tests.train_head.synthetic import OPTIONS
from train_head.config import SolverName, TrainConfig
from train_head.export.config import ExportConfig
from train_head.export.load import compile_outputs, load_export, read_export, rebuild_model
from train_head.export.parity import find_flipped_sets
from train_head.export.write import export_run
from train_head.predict.run import predict_pictures
from train_head.runs.card import read_card
from train_head.runs.read import Run
from train_head.train import train_head


@pytest.fixture(scope="module")
def multi_store(early_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of `early_store` with the labels `cats` and, for every third picture, `first`."""
    path = shutil.copytree(early_store, tmp_path_factory.mktemp("labels") / "store")
    store = FeatureStore(path)
    texts = [
        "|".join([*(["cats"] if example.label == "cats" else []), *([] if number % 3 else ["first"])])
        for number, example in enumerate(store.examples)
    ]
    write_labels(store, texts)
    return path


@pytest.fixture(scope="module")
def multi_run(multi_store: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    run = tmp_path_factory.mktemp("labels") / "run"
    options: dict[str, Any] = OPTIONS | {"solver": SolverName.REDUCED}
    train_head(TrainConfig(multi_store, run, **options, no_report=True), quiet)
    return run


@pytest.fixture(scope="module")
def multi_export(multi_run: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Exported:
    out = tmp_path_factory.mktemp("labels") / "out"
    return Exported(out, export_run(ExportConfig(multi_run, out), quiet))


def test_export_of_several_labels_has_a_sigmoid_for_each(
    multi_run: Path, multi_export: Exported, shared_pictures: Path, quiet: Console
) -> None:
    assert multi_export.result.parity.ok
    card, model = load_export(multi_export.model)
    assert (card.is_multi_label, card.thresholds, card.classes) == (True, [0.5, 0.5], ["cats", "first"])
    assert compile_outputs(model)(np.zeros((1, 75, 75, 3))).probabilities.shape == (1, 2)
    assert multi_export.result.load().output_shape == (None, 2)
    run = Run(multi_run)
    recorded = {found.path: found.row for found in run.read_predictions()}
    paths = [shared_pictures / path for path in recorded]
    found = predict_pictures_of(multi_export, paths, quiet)
    np.testing.assert_allclose([p.row for p in found], list(recorded.values()), atol=0.02)
    assert multi_export.result.parity.accuracy == run.accuracy


def predict_pictures_of(exported: Exported, paths: list[Path], console: Console) -> Any:
    from train_head.predict.config import PredictConfig

    return predict_pictures(PredictConfig([*paths], exported.model), console)


def test_predict_lists_the_labels_above_their_thresholds(
    multi_export: Exported, shared_pictures: Path, quiet: Console
) -> None:
    found = predict_pictures_of(multi_export, [shared_pictures / "validation"], quiet)
    assert found.is_multi_label
    assert found.accuracy is None
    for prediction in found:
        expected = {label for label, share in prediction.probabilities.items() if share >= 0.5}
        assert set(prediction.labels) == expected
        assert prediction.label == "|".join(sorted(expected))
        assert list(prediction.labels.values()) == sorted(prediction.labels.values(), reverse=True)
        assert prediction.probability == max(prediction.probabilities.values())
    result = run_command("train_head.predict.__main__", "--model", multi_export.model, shared_pictures, "--json")
    assert result.status == 0
    assert "accuracy" not in result.json
    assert all(row["label"] == "|".join(sorted(row["labels"])) for row in result.json["predictions"])


def test_export_with_thresholds_of_the_best_f1_chooses_one_for_each_label(
    multi_run: Path, tmp_path: Path, quiet: Console
) -> None:
    export_run(ExportConfig(multi_run, tmp_path / "out", threshold="f1", check=4), quiet)
    card = read_card(tmp_path / "out/model.keras")
    targets, probabilities = Run(multi_run).read_probabilities()
    for number, threshold in enumerate(card.thresholds):
        truth = targets[:, number] == 1

        def compute_f1(limit: float, truth: Any = truth, column: Any = probabilities[:, number]) -> float:
            return float(2 * np.sum(truth & (column >= limit)) / (truth.sum() + np.sum(column >= limit)))

        assert compute_f1(threshold) == max(map(compute_f1, probabilities[:, number].tolist()))


@pytest.mark.parametrize("threshold", ["0", "1", "nan", "best", ""])
def test_export_with_an_invalid_threshold_fails_before_any_work(
    multi_run: Path, tmp_path: Path, quiet: Console, threshold: str
) -> None:
    with raises(UsageError, where="--threshold"):
        export_run(ExportConfig(multi_run, tmp_path / "out", threshold=threshold), quiet)
    assert not (tmp_path / "out").exists()


def test_export_of_one_class_for_each_picture_refuses_thresholds(
    early_run: Path, tmp_path: Path, quiet: Console
) -> None:
    with raises(UsageError, where="--threshold"):
        export_run(ExportConfig(early_run, tmp_path / "out", threshold="f1"), quiet)


def test_rebuild_model_with_another_kind_of_outputs_fails(multi_export: Exported) -> None:
    card, arrays = read_export(multi_export.model)
    with pytest.raises(ValueError, match="thresholds"):
        replace(card, thresholds=[0.5]).check()
    with pytest.raises(ValueError, match="thresholds"):
        replace(card, is_multi_label=False).check()
    with pytest.raises(ValueError, match="does not fit"):
        rebuild_model(replace(card, is_multi_label=False, thresholds=[]), arrays)


def test_find_flipped_sets_ignores_labels_near_their_threshold() -> None:
    stored = np.array([[0.9, 0.5004], [0.9, 0.4], [0.2, 0.8]], np.float32)
    exported = np.array([[0.8, 0.4996], [0.4, 0.4], [0.3, 0.9]], np.float32)
    assert find_flipped_sets(exported, stored).tolist() == [False, True, False]


def test_card_of_several_labels_has_their_average_precisions(multi_export: Exported) -> None:
    text = (multi_export.out / "README.md").read_text()
    (index,) = yaml.safe_load(text.split("---\n")[1])["model-index"]
    assert index["results"][0]["metrics"][0]["type"] == "mean_average_precision"
    assert "| class | training | validation | average precision |" in text
    assert "np.concatenate" not in text
    values = json.loads((multi_export.out / "model.json").read_bytes())
    assert values["is_multi_label"] is True
    assert values["thresholds"] == [0.5, 0.5]
    assert values["outputs"]["keras"] == {"probability": [None, 2]}
