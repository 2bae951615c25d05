"""The report of a real run, with planted mistakes and planted duplicates."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from base.errors import HeadstartError
from base.terminal import Console
from extract.config import ExtractConfig
from extract.run import extract_features
from tests.pictures import draw_picture, encode
from tests.train_head.report.pages import Page, read_page
from tests.train_head.training import make_config, reseal
from train_head.config import ReportConfig, TrainConfig
from train_head.evaluation.uncertainty import Interval, Selection, compute_interval, record_selection
from train_head.report.page import Report, report_fitted_run, report_run
from train_head.report.sources import read_evaluation
from train_head.runs.read import Run
from train_head.train import train_head

MISTAKE = "validation/cats/a dog.png"
SAME, ORIGINAL = "validation/dogs/same.jpg", "train/dogs/003.jpg"
AGAIN, SAVED = "validation/cats/again.jpg", "train/cats/005.jpg"
ODD = "validation/dogs/<script>alert('x')</script>\n&amp;.png"


@dataclass(frozen=True)
class Planted:
    """A run on pictures among which are a mistake, two copies and an odd name."""

    pictures: Path
    config: TrainConfig
    page: Page

    @property
    def metrics(self) -> dict[str, Any]:
        return Run(self.config.run).read_metrics()


@pytest.fixture(scope="module")
def planted(shared_pictures: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Planted:
    folder = tmp_path_factory.mktemp("planted")
    pictures = shutil.copytree(shared_pictures, folder / "pictures")
    (pictures / MISTAKE).write_bytes(encode(draw_picture("dogs", 900)))
    shutil.copy(pictures / ORIGINAL, pictures / SAME)
    with Image.open(pictures / SAVED) as original:
        original.save(pictures / AGAIN, quality=70)
    odd = pictures / Path(ODD)
    odd.parent.mkdir(parents=True)
    odd.write_bytes(encode(draw_picture("dogs", 901)))
    extract_features(ExtractConfig(pictures, folder / "store", weights="random", image_size=75, cut="mixed5"), quiet)
    config = make_config(folder / "store", folder / "run", epochs=15, no_report=False)
    train_head(config, quiet)
    assert report_fitted_run(config, quiet) == folder / "run/report.html"
    return Planted(pictures, config, read_page(config.run))


def test_report_needs_nothing_but_itself(planted: Planted) -> None:
    text = (planted.config.run / "report.html").read_text()
    assert not {"script", "link", "iframe", "object"} & set(planted.page.tags)
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in planted.page.addresses)
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")


def test_report_in_a_notebook_is_the_page_in_a_frame(planted: Planted) -> None:
    shown = Page()
    shown.feed(Report(planted.config.run / "report.html")._repr_html_())
    assert shown.tags == ["iframe"]
    assert shown.frames == [(planted.config.run / "report.html").read_text()]


def test_report_says_the_numbers_of_the_metrics(planted: Planted) -> None:
    evaluation, page = planted.metrics["evaluation"], planted.page
    said = f"{evaluation['accuracy']:.1%}accuracy on {evaluation['num_pictures']} validation pictures"
    assert f"{said}; 95% interval {Interval(*evaluation['accuracy_interval']).format_percent()}" in page.text
    assert evaluation["accuracy"] == planted.metrics["val_accuracy"]
    matrix = page.find_table("predicted cats")
    assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == evaluation["confusion"]
    for row, found in zip(page.find_table("ROC AUC")[1:], evaluation["classes"], strict=True):
        names = ("precision", "recall", "f1", "roc_auc", "average_precision")
        assert row == [found["label"], str(found["num_pictures"]), *(f"{found[name]:.4f}" for name in names)]
    thresholds = [(c["label"], t) for c in evaluation["classes"] for t in c["thresholds"]]
    for row, (label, found) in zip(page.find_table("threshold")[1:], thresholds, strict=True):
        numbers = [f"{found[name]:.4f}" for name in ("threshold", "precision", "recall", "f1")]
        assert [*row[:4], row[5], row[7]] == [label, found["wanted"], *numbers]
        for share, interval in ((found["precision"], row[4]), (found["recall"], row[6])):
            low, high = map(float, interval.split(" to "))
            assert low < share <= high
    assert f"error {evaluation['calibration_error']:.4f}, Brier score {evaluation['brier']:.4f}" in page.text


def test_report_shows_the_planted_mistake_first_among_what_is_wrong(planted: Planted) -> None:
    after = planted.page.text.partition("Largest errors")[2].partition("Least certain")[0]
    assert after.index("incorrect: predicted dogs") < after.index(MISTAKE)
    shown = [image["alt"] for image in planted.page.images]
    assert shown[0] == f"Picture {MISTAKE}, true class cats, predicted dogs"


def test_report_lists_the_copy_and_shows_the_one_that_was_saved_again_side_by_side(planted: Planted) -> None:
    assert "1 held-out picture was trained on too, byte for byte" in planted.page.text
    assert planted.page.find_table("held out")[1:] == [[SAME, ORIGINAL]]
    alts = [image["alt"] for image in planted.page.images]
    place = alts.index(f"Validation picture {AGAIN}")
    assert alts[place + 1] == f"Training picture {SAVED}"
    near = planted.page.text.partition("byte for byte, which")[2]
    assert near.index("nearly the same") < near.index(f"{AGAIN} (validation), {SAVED} (training)")
    assert "1 validation pictures were trained on too" in planted.page.text.replace("\n", " ")


def test_report_shows_odd_names_and_obeys_none(planted: Planted) -> None:
    shown = "validation/dogs/<script>alert('x')</script>\\n&amp;.png"
    alts = " ".join(image["alt"] for image in planted.page.images)
    assert shown in planted.page.text + alts


def test_report_can_be_read_without_seeing(planted: Planted) -> None:
    assert all(image["alt"] for image in planted.page.images)
    curves, areas, reliability = planted.page.figures
    kept = Run(planted.config.run).read_history()[-1]
    assert f"validation accuracy {kept.val_accuracy:.4f}" in curves
    assert f"gap of {planted.metrics['train_accuracy'] - kept.val_accuracy:.4f}" in curves
    assert f"Area {planted.metrics['evaluation']['roc_auc']:.4f}" in areas
    assert "Expected calibration error" in reliability


def test_report_says_what_was_trained_on_what(planted: Planted) -> None:
    facts = {row[0]: row[1] for table in planted.page.tables for row in table if len(row) == 2}
    assert facts["pictures"] == "pictures"
    assert facts["training"] == "24 (12 cats, 12 dogs)"
    assert facts["validation"] == "16 (8 cats, 8 dogs), by folder validation/"
    assert facts["backbone"] == "InceptionV3 up to mixed5, frozen"
    assert facts["weights"].startswith("random, SHA-256 of the tensors ")
    assert "units 8, dropout 0.3" in facts["head"]
    assert "seed 3" in facts["head"]
    assert facts["fitting"].endswith(" for 15 epochs")
    assert "features at" in facts["extraction, once"]


def test_report_of_the_same_run_is_kept_and_written_anew_where_it_is_gone(planted: Planted, quiet: Console) -> None:
    path = planted.config.run / "report.html"
    before = path.stat().st_mtime_ns
    assert report_fitted_run(planted.config, quiet) == path
    assert path.stat().st_mtime_ns == before


def test_report_without_its_pictures_says_so_in_their_place(planted: Planted, tmp_path: Path, quiet: Console) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "run")
    report_run(ReportConfig(run, images=str(tmp_path / "gone")), quiet)
    page = read_page(run)
    assert page.images == []
    assert "not shown: an unreadable file (No such file or directory)" in page.text


def test_report_of_a_run_from_before_there_were_evaluations_computes_them(
    planted: Planted, tmp_path: Path, quiet: Console
) -> None:
    run = Run(shutil.copytree(planted.config.run, tmp_path / "run"))
    metrics = run.read_metrics()
    expected = metrics.pop("evaluation")
    (run.folder / "metrics.json").write_text(json.dumps(metrics))
    reseal(run.folder)
    found = json.loads(json.dumps(read_evaluation(Run(run.folder))))
    assert found["confusion"] == expected["confusion"]
    assert found["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-5)
    report_run(ReportConfig(run.folder), quiet)
    assert read_page(run.folder).find_table("predicted cats") == planted.page.find_table("predicted cats")


def test_report_that_cannot_be_written_costs_itself_and_not_the_run(
    planted: Planted, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "run")
    (run / "report.html").unlink()
    (run / "history.csv").write_text("nonsense")
    assert report_fitted_run(make_config(planted.config.store, run, no_report=False), quiet) is None
    assert f"warning: expected {run / 'report.html'}, got " in capsys.readouterr().err


def test_report_on_another_store_is_refused(planted: Planted, shared_store: Path, quiet: Console) -> None:
    with pytest.raises(HeadstartError, match=r"--cut: expected mixed7, .* got mixed5"):
        report_run(ReportConfig(planted.config.run, store=str(shared_store)), quiet)


def test_report_holds_no_path_of_the_machine(planted: Planted) -> None:
    text = (planted.config.run / "report.html").read_text()
    assert str(planted.pictures.parent) not in text
    facts = {row[0]: row[1] for table in planted.page.tables for row in table if len(row) == 2}
    assert facts["store"].startswith("store, fingerprint ")
    assert "python -m train_head.export --run run --out run-model" in planted.page.text


def test_report_commands_name_the_run_as_seen_from_the_working_folder(
    planted: Planted, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "work/my run")
    monkeypatch.chdir(tmp_path)
    report_run(ReportConfig(run), quiet)
    assert "--run 'work/my run' --out 'work/my run-model'" in read_page(run).text


def test_report_gives_the_stored_type_and_the_precision_of_features(planted: Planted) -> None:
    facts = {row[0]: row[1] for table in planted.page.tables for row in table if len(row) == 2}
    assert "stored as float16, computed in float32 with " in facts["features"]


def change_metrics(run: Path, **values: object) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | values))
    reseal(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kept_epoch", "3"),
        ("kept_epoch", 0),
        ("kept_epoch", 99),
        ("train_loss", "low"),
        ("folds", {"val_accuracies": 3}),
        ("diverged", {"epoch": 1}),
        ("selection", [24]),
        ("test", 0.5),
        ("test", {"accuracy": 0.5}),
    ],
)
def test_report_of_metrics_with_a_wrong_value_names_it(
    planted: Planted, tmp_path: Path, quiet: Console, name: str, value: object
) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "run")
    change_metrics(run, **{name: value})
    with pytest.raises(HeadstartError) as caught:
        report_run(ReportConfig(run), quiet)
    assert "metrics.json" in str(caught.value.where)


@pytest.mark.parametrize("value", [None, 3, "x", {"accuracy": []}, {"confusion": [[1]], "accuracy_interval": [1]}])
def test_report_evaluates_anew_whatever_was_kept_as_evaluation(
    planted: Planted, tmp_path: Path, quiet: Console, value: object
) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "run")
    change_metrics(run, evaluation=value)
    report_run(ReportConfig(run), quiet)
    assert read_page(run).find_table("threshold") == planted.page.find_table("threshold")


def test_report_thresholds_hold_as_they_are_written(planted: Planted) -> None:
    targets, probabilities = Run(planted.config.run).read_probabilities()
    for label, _, threshold, precision, _, recall, _, f1 in planted.page.find_table("threshold")[1:]:
        number = ["cats", "dogs"].index(label)
        predicted, truths = probabilities[:, number] >= float(threshold), targets == number
        right = (predicted & truths).sum()
        found = (right / predicted.sum(), right / truths.sum(), 2 * right / (predicted.sum() + truths.sum()))
        assert [f"{share:.4f}" for share in found] == [precision, recall, f1]


def test_report_of_a_class_that_is_never_predicted_gives_it_no_precision(
    planted: Planted, tmp_path: Path, quiet: Console
) -> None:
    run = Run(shutil.copytree(planted.config.run, tmp_path / "run"))
    lines = (run.folder / "predictions.csv").read_text().splitlines(keepends=True)
    rows = list(csv.reader(lines))
    with (run.folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([*row[:2], "cats", "0.9", "0.1"] for row in rows[1:])])
    reseal(run.folder)
    report_run(ReportConfig(run.folder), quiet)
    cats, dogs = read_page(run.folder).find_table("ROC AUC")[1:]
    assert (cats[2:5], dogs[2:5]) == (["0.5000", "1.0000", "0.6667"], ["–", "0.0000", "0.0000"])


def test_report_of_a_chosen_head_says_so_and_is_written_anew(planted: Planted, tmp_path: Path, quiet: Console) -> None:
    run = Run(shutil.copytree(planted.config.run, tmp_path / "run"))
    selection = Selection(24, 1, "val_accuracy")
    change_metrics(run.folder, **record_selection(run.read_metrics(), selection))
    run = Run(run.folder)
    config = replace(planted.config, run=run.folder)
    assert report_fitted_run(config, quiet) == run.folder / "report.html"
    page = read_page(run.folder)
    assert "This is the best of 24 heads, chosen by the validation pictures" in page.text
    right = sum(row[n] for n, row in enumerate(run.read_metrics()["confusion"]))
    expected = compute_interval(right, 16, 24)
    assert read_evaluation(run)["accuracy_interval"] == list(expected)
    assert f"95% interval {expected.format_percent()}, which allows for the choice: the best of 24 heads" in page.text


def test_report_of_three_classes_has_a_curve_for_each(three_classes: Any, tmp_path: Path, quiet: Console) -> None:
    config = make_config(three_classes, tmp_path / "run", no_report=False)
    train_head(config, quiet)
    report_fitted_run(config, quiet)
    page = read_page(config.run)
    assert len(page.find_table("predicted owls")) == 4
    areas = page.text.partition("Probabilities and thresholds")[2].partition("over all thresholds")[0]
    for label in ("cats", "dogs", "owls"):
        assert label in areas
    assert page.text.startswith("\n") or "cats or dogs or owls" in page.text


def test_thumbnails_are_pictures(planted: Planted) -> None:
    import base64

    for image in planted.page.images:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            assert picture.format == "JPEG"
