"""Report and files of a run with 1,000 classes of three pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console
from tests.commands import CommandResult, run_command
from tests.train_head.report.pages import Page, read_page
from tests.train_head.synthetic import make_store
from tests.train_head.training import make_config
from train_head.config import TrainConfig
from train_head.evaluation.confusion import read_cells
from train_head.evaluation.metrics import NUM_DETAILED
from train_head.report.findings import NUM_CONFUSIONS_OF_MANY
from train_head.report.gallery import NUM_UNCERTAIN_SHOWN, NUM_WRONG_SHOWN_OF_MANY
from train_head.report.outliers import NUM_DISTANT_SHOWN
from train_head.runs.read import Run

NUM_CLASSES = 1000
LABELS = sorted(f"class {number}" for number in range(NUM_CLASSES))
MAX_LINE = 300


@dataclass(frozen=True)
class Trained:
    """Run on 1,000 classes, with the output of the training."""

    config: TrainConfig
    output: CommandResult
    page: Page

    @property
    def run(self) -> Run:
        return Run(self.config.run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("many")
    paths = [f"train/{label}/{number}.jpg" for label in LABELS for number in range(3)]
    paths += [f"test/{label}/9.jpg" for label in LABELS]
    rng = np.random.default_rng(0)
    centres = dict(zip(LABELS, rng.normal(size=(NUM_CLASSES, 24)), strict=True))
    features = np.array([centres[path.split("/")[1]] + 0.6 * rng.normal(size=24) for path in paths])
    store = make_store(folder / "store", paths, features=features.reshape(-1, 1, 1, 24), rows_per_shard=1024)
    config = make_config(store, folder / "run")
    places = ["--store", str(store.path), "--run", str(config.run)]
    options = ["--solver", "reduced", "--epochs", "3", "--units", "32", "--learning-rate", "0.02", "--batch-size", "64"]
    output = run_command("train_head.__main__", *places, *options, "--json")
    assert output.status == 0, output.err
    return Trained(config, output, read_page(config.run))


def test_train_of_many_classes_prints_short_lines_and_a_small_object(trained: Trained) -> None:
    assert max(map(len, trained.output.err.splitlines())) < MAX_LINE
    assert len(trained.output.out) < 500_000
    assert {"per_class", "confusion", "classes"} <= trained.output.json.keys()


def test_run_of_many_classes_has_small_files(trained: Trained) -> None:
    sizes = {path.name: path.stat().st_size for path in trained.config.run.iterdir()}
    assert sizes["metrics.json"] < 1_000_000
    assert sizes["predictions.csv"] < 200_000
    assert sizes["validation_probabilities.npy"] < 4 * NUM_CLASSES * len(trained.run.read_predictions()) + 200


def test_report_of_many_classes_is_below_two_megabytes(trained: Trained) -> None:
    assert (trained.config.run / "report.html").stat().st_size < 1_000_000
    assert len(trained.page.json_text) < 500_000
    assert trained.page.data["validation"]["confusion"] is None
    assert "per_class" not in trained.page.data["metrics"]


def test_report_of_many_classes_lists_every_class_once_lowest_recall_first(trained: Trained) -> None:
    header, *rows = trained.page.find_table("most often confused with")
    assert sorted(row[0] for row in rows) == LABELS
    recalls = [float(row[header.index("recall")].rstrip("%")) for row in rows]
    assert recalls == sorted(recalls)
    assert len({*recalls}) > 1
    recall_of = {found["label"]: found["recall"] for found in trained.page.data["validation"]["classes"]}
    assert [round(100 * recall_of[row[0]], 1) for row in rows] == recalls


def test_report_of_many_classes_has_the_most_confused_pairs_with_an_example(trained: Trained) -> None:
    predictions = trained.run.read_predictions()
    wrong = Counter((found.label, found.predicted) for found in predictions if found.label != found.predicted)
    findings = trained.page.data["findings"]
    assert findings["num_confused_pairs"] == len(wrong) > NUM_CONFUSIONS_OF_MANY
    shown = {(pair["label"], pair["predicted"]): pair["count"] for pair in findings["confusions"]}
    assert len(shown) == NUM_CONFUSIONS_OF_MANY
    assert {pair: wrong[pair] for pair in shown} == shown
    assert list(shown.values()) == [count for _, count in wrong.most_common(NUM_CONFUSIONS_OF_MANY)]
    label_of = {found.path: (found.label, found.predicted) for found in predictions}
    assert [label_of[pair["example"]] for pair in findings["confusions"]] == list(shown)
    table = trained.page.find_table("share")
    assert [(row[0], row[1]) for row in table[1:]] == list(shown)


def test_report_of_many_classes_has_the_cells_of_the_confusion_matrix(trained: Trained) -> None:
    cells = read_cells(trained.page.data["validation"])
    counted = Counter((found.label, found.predicted) for found in trained.run.read_predictions())
    assert {(LABELS[true], LABELS[predicted]): count for true, predicted, count in cells.tolist()} == counted
    assert sum("data:image/png" in address for address in trained.page.addresses) == 1


def test_report_of_many_classes_limits_pictures_curves_and_thresholds(trained: Trained) -> None:
    text = (trained.config.run / "report.html").read_text()
    # The pictures do not exist, so that each thumbnail is a box with a reason.
    num_near = 2 * len(trained.page.data["duplicates"]["near"])
    most = NUM_WRONG_SHOWN_OF_MANY + NUM_UNCERTAIN_SHOWN + NUM_CONFUSIONS_OF_MANY + num_near + NUM_DISTANT_SHOWN
    assert text.count('<div class="gone">') <= most
    thresholds = {row[0] for row in trained.page.find_table("goal")[1:]}
    assert len(thresholds) == NUM_DETAILED
    assert text.count("class class ") <= 2 * 6 + 2


def test_report_test_of_many_classes_has_two_tables_and_stays_small(
    trained: Trained, tmp_path: Path, quiet: Console
) -> None:
    output = run_command("train_head.report.__main__", "--run", str(trained.config.run), "--test", "--json")
    assert output.status == 0, output.err
    page = read_page(trained.config.run)
    tables = [table for table in page.tables if "most often confused with" in table[0]]
    assert [sorted(row[0] for row in table[1:]) for table in tables] == [LABELS, LABELS]
    assert (trained.config.run / "report.html").stat().st_size < 1_500_000
    assert max(map(len, output.err.splitlines()), default=0) < MAX_LINE
    assert page.data["test"]["num_pictures"] == NUM_CLASSES
