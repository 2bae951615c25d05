"""Report of a real run with planted errors and duplicates."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from base.errors import HeadstartError
from base.files import hash_file
from base.terminal import Console
from extract.config import ExtractConfig
from extract.run import extract_features
from tests.pictures import draw_picture, encode
from tests.train_head.report.pages import Page, read_page
from tests.train_head.training import make_config, rewrite_manifest
from train_head.config import ReportConfig, TrainConfig
from train_head.evaluation.neighbours import NEAR
from train_head.evaluation.uncertainty import Selection, compute_interval, format_percent, record_selection
from train_head.report.commands import shorten
from train_head.report.page import Report, render_report, report_fitted_run, report_run
from train_head.report.sources import load_sources, read_evaluation
from train_head.runs.read import Run
from train_head.train import train_head

MISTAKE = "validation/cats/a dog.png"
DAMAGED = "train/cats/broken.jpg"
SAME, ORIGINAL = "validation/dogs/same.jpg", "train/dogs/003.jpg"
AGAIN, SAVED = "validation/cats/again.jpg", "train/cats/005.jpg"
ODD = "validation/dogs/<script>alert('x')</script>\n&amp;.png"


@dataclass(frozen=True)
class Planted:
    """Run on pictures with one wrong label, two duplicates, a damaged file and an unusual file name."""

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
        original.save(pictures / AGAIN, quality=100)
    (pictures / DAMAGED).write_bytes(b"not a picture")
    odd = pictures / Path(ODD)
    odd.parent.mkdir(parents=True)
    odd.write_bytes(encode(draw_picture("dogs", 901)))
    extract_features(
        ExtractConfig(pictures, folder / "store", weights="random", image_size=75, cut="mixed5", max_bad=1), quiet
    )
    config = make_config(folder / "store", folder / "run", epochs=15, no_report=False)
    train_head(config, quiet)
    assert report_fitted_run(config, quiet) == folder / "run/report.html"
    return Planted(pictures, config, read_page(config.run))


def list_facts(page: Page) -> dict[str, str]:
    return {row[0]: row[1] for table in page.tables for row in table if len(row) == 2}


def test_report_is_self_contained(planted: Planted) -> None:
    text = (planted.config.run / "report.html").read_text()
    assert not {"link", "iframe", "object"} & set(planted.page.tags)
    assert re.findall("<script[^>]*>", text) == ['<script type="application/json" id="headstart-report">']
    shown = [address for address in planted.page.addresses if not address.startswith(("data:image/jpeg;base64,", "#"))]
    # Links to the pictures themselves.
    assert all((planted.config.run / unquote(address)).is_file() for address in shown)
    assert len(shown) == len(planted.page.images)
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")


def test_report_in_a_notebook_is_the_page_in_a_frame(planted: Planted) -> None:
    shown = Page()
    shown.feed(Report(planted.config.run / "report.html")._repr_html_())
    assert shown.tags == ["iframe"]
    assert shown.frames == [(planted.config.run / "report.html").read_text()]


def test_report_data_has_the_metrics_history_and_evaluation_of_the_run(planted: Planted) -> None:
    data, run = planted.page.data, Run(planted.config.run)
    assert data["validation"] == json.loads(json.dumps(read_evaluation(run)))
    assert data["validation"]["accuracy"] == planted.metrics["val_accuracy"]
    assert data["metrics"] == {name: value for name, value in planted.metrics.items() if name != "evaluation"}
    assert data["history"] == [asdict(row) for row in run.read_history()]
    assert data["metrics_sha256"] == hash_file(run.folder / "metrics.json")
    assert (data["test"], data["selection"]["num_candidates"]) == (None, 1)
    assert data["pictures"] == {
        "training": {"cats": 12, "dogs": 12},
        "validation": {"cats": 8, "dogs": 8},
        "test": {},
    }


def test_report_data_has_the_findings(planted: Planted) -> None:
    findings, run = planted.page.data["findings"], Run(planted.config.run)
    assert findings["cautions"] == ["leaked"]
    assert findings["gap"] == pytest.approx(planted.metrics["train_accuracy"] - planted.metrics["val_accuracy"])
    probabilities = run.read_probabilities()[1]
    assert findings["mean_confidence"] == pytest.approx(probabilities.max(axis=1).mean())
    confusion = planted.metrics["confusion"]
    assert {error["label"]: error["count"] for error in findings["confusions"]} == {
        label: count for label, count in (("cats", confusion[0][1]), ("dogs", confusion[1][0])) if count
    }


def test_report_of_weak_weights_starts_with_a_notice_and_the_command_for_better_ones(
    planted: Planted, quiet: Console
) -> None:
    sources = load_sources(ReportConfig(planted.config.run))
    sources.run.record = replace(sources.run.record, weights="nsfwjs")
    page = Page()
    page.feed(render_report(sources, quiet)[0].decode())
    assert page.data["run"]["weights"] == "nsfwjs"
    command = page.data["commands"]["weights"]
    assert command.endswith("--weights imagenet --new-store")
    assert command in page.commands
    assert page.text.index(command) < page.text.index("validation picture")
    assert not planted.page.data["commands"]["weights"]


def test_report_tables_show_the_evaluation(planted: Planted) -> None:
    evaluation, page = planted.page.data["validation"], planted.page
    matrix = next(table for table in page.tables if table[0] == ["", "cats", "dogs"])
    assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == evaluation["confusion"]
    for row, found in zip(page.find_table("ROC AUC")[1:], evaluation["classes"], strict=True):
        shares = [format_percent(found[name]) for name in ("precision", "recall", "f1")]
        assert row == [found["label"], str(found["num_pictures"]), *shares, f"{found['roc_auc']:.4f}"]


def test_report_lists_the_planted_error_first(planted: Planted) -> None:
    wrong = planted.page.data["wrong"]
    assert (wrong[0]["path"], wrong[0]["label"], wrong[0]["predicted"]) == (MISTAKE, "cats", "dogs")
    predictions = Run(planted.config.run).read_predictions()
    assert len(wrong) == sum(found.predicted != found.label for found in predictions)
    assert MISTAKE in planted.page.images[0]["alt"]
    rows = planted.page.find_table("true class")[1:]
    assert [row[0] for row in rows] == [row["path"] for row in wrong]


def test_report_lists_exact_duplicates_and_shows_near_ones_next_to_each_other(planted: Planted) -> None:
    duplicates, page = planted.page.data["duplicates"], planted.page
    assert [(pair["held_out"], pair["train"]) for pair in duplicates["exact"]] == [(SAME, ORIGINAL)]
    assert page.find_table("training")[1:] == [[SAME, ORIGINAL]]
    (near,) = [pair for pair in duplicates["near"] if pair["held_out"] == AGAIN]
    assert (near["train"], near["similarity"] >= NEAR) == (SAVED, True)
    assert duplicates["num_near"] >= 1
    alts = [image["alt"] for image in page.images]
    place = next(number for number, alt in enumerate(alts) if AGAIN in alt and alt.startswith("Validation"))
    assert SAVED in alts[place + 1]


def test_report_escapes_unusual_file_names(planted: Planted) -> None:
    shown = "validation/dogs/<script>alert('x')</script>\\n&amp;.png"
    alts = " ".join(image["alt"] for image in planted.page.images)
    assert shown in planted.page.text + alts
    data = planted.page.data
    assert ODD in {row["path"] for row in (*data["wrong"], *data["uncertain"])} | {
        pair["held_out"] for pair in data["duplicates"]["near"]
    }


def test_report_has_a_text_alternative_for_every_picture_and_plot(planted: Planted) -> None:
    assert all(image["alt"] for image in planted.page.images)
    assert len(planted.page.figures) == 6
    assert all(planted.page.figures)
    assert f"{planted.metrics['evaluation']['roc_auc']:.4f}" in planted.page.figures[3]


def test_report_lists_the_planted_wrong_label_with_its_picture(planted: Planted) -> None:
    labels, run = planted.page.data["label_issues"], Run(planted.config.run)
    assert MISTAKE in [issue["path"] for issue in labels["issues"]]
    assert labels["num_issues"] == len(labels["issues"]) == sum(labels["num_by_kind"].values())
    assert (labels["num_pictures"], labels["limits"]) == (39, [])
    assert f"Picture {MISTAKE}, label cats" in [image["alt"] for image in planted.page.images]
    assert [issue.path for issue in run.label_issues] == [issue["path"] for issue in labels["issues"]]
    assert run.label_issues[0].score == pytest.approx(labels["issues"][0]["score"], rel=1e-5)


def test_report_has_a_heading_for_each_section(planted: Planted) -> None:
    assert planted.page.headings == [
        "Learning curves",
        "Confusion matrix",
        "Incorrect predictions",
        "Labels to check",
        "Calibration",
        "ROC curve, precision and recall",
        "None of these",
        "Duplicates across the split",
        "Data and options",
        "Next steps",
    ]


def test_report_facts_describe_data_and_options(planted: Planted) -> None:
    facts = list_facts(planted.page)
    assert facts["pictures"] == "pictures"
    assert facts["training"] == "24 (12 cats, 12 dogs)"
    assert facts["validation"].startswith("16 (8 cats, 8 dogs)")
    assert facts["not usable"].startswith(f"1 picture: {DAMAGED} (")
    assert "mixed5" in facts["backbone"]
    assert facts["weights"].startswith("random, ")
    assert {"float16", "float32"} <= set(facts["features"].replace(",", "").split())
    assert "units 8, dropout 0.3" in facts["head"]
    assert "seed 3" in facts["head"]


def test_report_commands_have_the_options_of_the_run(planted: Planted) -> None:
    commands = planted.page.data["commands"]
    arguments = shlex.split(commands["train"])
    pictures, store, run = (str(shorten(path)) for path in (planted.pictures, planted.config.store, planted.config.run))
    assert arguments[:7] == ["python", "-m", "train_head", "--store", store, "--run", run]
    options = dict(zip(arguments[7::2], arguments[8::2], strict=True))
    changed = {"epochs": 15, "batch_size": 8, "units": 8, "dropout": 0.3, "learning_rate": 0.01, "seed": 3}
    expected = {f"--{name.replace('_', '-')}": str(value) for name, value in changed.items()}
    assert options == expected | {"--solver": "reduced"}
    made = ["--image-size", "75", "--cut", "mixed5"]
    assert shlex.split(commands["extract"])[3:] == ["--images", pictures, "--store", store, *made]
    # There are no pictures in test/ to evaluate.
    assert all(command in planted.page.commands for name, command in commands.items() if command and name != "test")


def test_report_of_the_same_metrics_is_not_written_again(planted: Planted, quiet: Console) -> None:
    path = planted.config.run / "report.html"
    before = path.stat().st_mtime_ns
    assert report_fitted_run(planted.config, quiet) == path
    assert path.stat().st_mtime_ns == before


def test_report_without_its_pictures_gives_a_reason_for_each(planted: Planted, tmp_path: Path, quiet: Console) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "run")
    report_run(ReportConfig(run, images=str(tmp_path / "gone")), quiet)
    page = read_page(run)
    assert page.images == []
    assert page.text.count("not shown: ") == len(planted.page.images)


def test_report_of_metrics_without_an_evaluation_computes_it(planted: Planted, tmp_path: Path, quiet: Console) -> None:
    run = Run(shutil.copytree(planted.config.run, tmp_path / "run"))
    metrics = run.read_metrics()
    expected = metrics.pop("evaluation")
    (run.folder / "metrics.json").write_text(json.dumps(metrics))
    rewrite_manifest(run.folder)
    found = json.loads(json.dumps(read_evaluation(Run(run.folder))))
    assert found["confusion"] == expected["confusion"]
    assert found["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-5)
    report_run(ReportConfig(run.folder), quiet)
    assert read_page(run.folder).data["validation"]["confusion"] == planted.page.data["validation"]["confusion"]


def test_report_that_cannot_be_written_is_a_warning_and_the_run_is_kept(
    planted: Planted, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "run")
    (run / "report.html").unlink()
    (run / "history.csv").write_text("nonsense")
    assert report_fitted_run(make_config(planted.config.store, run, no_report=False), quiet) is None
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(run / "report.html") in warning


def test_report_on_another_store_is_refused(planted: Planted, shared_store: Path, quiet: Console) -> None:
    with pytest.raises(HeadstartError) as caught:
        report_run(ReportConfig(planted.config.run, store=str(shared_store)), quiet)
    assert ("mixed7" in caught.value.expected, "mixed5" in caught.value.got) == (True, True)


def test_report_holds_no_path_of_the_machine(planted: Planted) -> None:
    assert str(planted.pictures.parent) not in (planted.config.run / "report.html").read_text()
    assert list_facts(planted.page)["store"].startswith("store, ")


def test_report_commands_are_relative_to_the_working_folder(
    planted: Planted, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "work/my run")
    monkeypatch.chdir(tmp_path)
    report_run(ReportConfig(run), quiet)
    arguments = shlex.split(read_page(run).data["commands"]["export"])
    assert arguments[3:] == ["--run", "work/my run", "--out", "work/my run-model"]


def change_metrics(run: Path, **values: object) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | values))
    rewrite_manifest(run)


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
def test_report_of_metrics_with_an_invalid_value_names_the_file(
    planted: Planted, tmp_path: Path, quiet: Console, name: str, value: object
) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "run")
    change_metrics(run, **{name: value})
    with pytest.raises(HeadstartError) as caught:
        report_run(ReportConfig(run), quiet)
    assert caught.value.where == run / "metrics.json"


@pytest.mark.parametrize("value", [None, 3, "x", {"accuracy": []}, {"confusion": [[1]], "accuracy_interval": [1]}])
def test_report_computes_the_evaluation_whatever_the_metrics_hold(
    planted: Planted, tmp_path: Path, quiet: Console, value: object
) -> None:
    run = shutil.copytree(planted.config.run, tmp_path / "run")
    change_metrics(run, evaluation=value)
    report_run(ReportConfig(run), quiet)
    assert read_page(run).data["validation"] == planted.page.data["validation"]


def test_report_thresholds_have_the_printed_precision_and_recall(planted: Planted) -> None:
    targets, probabilities = Run(planted.config.run).read_probabilities()
    rows = planted.page.find_table("threshold")[1:]
    goals = ["best F1", *(f"{name} {share}" for name in ("recall", "precision") for share in (0.9, 0.95, 0.99))]
    for label in ("cats", "dogs"):
        found = [row[1] for row in rows if row[0] == label]
        # A precision that no threshold reaches is left out.
        assert found[:4] == goals[:4]
        assert found[4:] == [goal for goal in goals[4:] if goal in found]
    for label, _, threshold, precision, recall, f1 in rows:
        number = ["cats", "dogs"].index(label)
        predicted, truths = probabilities[:, number] >= float(threshold), targets == number
        right = int((predicted & truths).sum())
        num_thresholds = 10_001
        for text, num in ((precision, predicted.sum()), (recall, truths.sum())):
            interval = compute_interval(right, int(num), num_thresholds)
            assert text == format_percent(right / num) + interval.format_percent()
        assert f1 == format_percent(2 * right / (predicted.sum() + truths.sum()))


def test_report_of_a_class_that_is_never_predicted_shows_no_precision(
    planted: Planted, tmp_path: Path, quiet: Console
) -> None:
    run = Run(shutil.copytree(planted.config.run, tmp_path / "run"))
    lines = (run.folder / "predictions.csv").read_text().splitlines(keepends=True)
    rows = list(csv.reader(lines))
    with (run.folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([*row[:2], "cats", "0.9", "0.1"] for row in rows[1:])])
    rewrite_manifest(run.folder)
    report_run(ReportConfig(run.folder), quiet)
    cats, dogs = read_page(run.folder).find_table("ROC AUC")[1:]
    assert (cats[2:5], dogs[2:5]) == (["50.0%", "100.0%", "66.7%"], ["–", "0.0%", "0.0%"])


def test_report_of_a_selected_head_has_the_wider_interval(planted: Planted, tmp_path: Path, quiet: Console) -> None:
    run = Run(shutil.copytree(planted.config.run, tmp_path / "run"))
    selection = Selection(24, 1, "val_accuracy")
    change_metrics(run.folder, **record_selection(run.read_metrics(), selection))
    run = Run(run.folder)
    config = replace(planted.config, run=run.folder)
    assert report_fitted_run(config, quiet) == run.folder / "report.html"
    page = read_page(run.folder)
    assert page.data["findings"]["cautions"][0] == "selected"
    assert page.data["selection"]["num_candidates"] == 24
    right = sum(row[n] for n, row in enumerate(run.read_metrics()["confusion"]))
    expected = compute_interval(right, 16, 24)
    assert page.data["validation"]["accuracy_interval"] == list(expected)
    assert expected.format_percent() in page.text


def test_report_of_three_classes_has_curves_for_each(three_classes: Any, tmp_path: Path, quiet: Console) -> None:
    config = make_config(three_classes, tmp_path / "run", no_report=False)
    train_head(config, quiet)
    report_fitted_run(config, quiet)
    page = read_page(config.run)
    labels = ["cats", "dogs", "owls"]
    assert next(table for table in page.tables if table[0] == ["", *labels])
    assert [row["label"] for row in page.data["validation"]["classes"]] == labels
    svg = (config.run / "report.html").read_text()
    assert all(svg.count(f"class {label}<") == 2 for label in labels)


def test_thumbnails_are_pictures(planted: Planted) -> None:
    import base64

    for image in planted.page.images:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            assert picture.format == "JPEG"
