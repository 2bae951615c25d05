"""Using an exported model on pictures, with nothing else at hand."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.command_line import CommandFailed
from base.errors import HeadstartError, UsageError
from base.terminal import Console
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.conftest import Exported
from tests.train_head.export.edits import edit_json, remove_digest
from tests.train_head.synthetic import run_export
from train_head.config import PredictConfig
from train_head.predict.__main__ import predict
from train_head.predict.classify import Prediction, Predictions, UnusedPicture, list_pictures, predict_pictures
from train_head.runs.card import CARD_NAME


def run_predict(model: Path, *files: Path, batch_size: int = 32) -> dict[str, Any]:
    from base.terminal import ConsoleOptions

    return dict(predict(PredictConfig(list(files), model, batch_size), Console(ConsoleOptions(quiet=True))))


def list_labels(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(prediction["image"], prediction["label"]) for prediction in result["predictions"]]


def test_predict_on_the_validation_pictures_says_what_training_said(
    exported: Exported, trained: Path, shared_pictures: Path
) -> None:
    with (trained / "predictions.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    result = run_predict(exported.model, shared_pictures / "validation")
    assert list_labels(result) == [(str(shared_pictures / row["path"]), row["predicted"]) for row in rows]
    probabilities = [prediction["probability"] for prediction in result["predictions"]]
    expected = [float(row[f"p({row['predicted']})"]) for row in rows]
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)
    assert result["accuracy"] == 1.0
    assert result["failed"] == result["skipped"] == []


def test_predict_goes_through_files_and_folders_in_the_order_given(tiny_two: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"b/deep/dogs": 2, "b/cats": 1, "a": 0})
    single = tmp_path / "a" / "no-suffix"
    single.write_bytes(encode(draw_picture("dogs", 7, (200, 31))))
    result = run_predict(tiny_two, single, tmp_path / "b", tmp_path / "b/cats/000.jpg")
    assert list_labels(result) == [
        (str(single), "dogs"),
        (str(tmp_path / "b/cats/000.jpg"), "cats"),
        (str(tmp_path / "b/deep/dogs/000.jpg"), "dogs"),
        (str(tmp_path / "b/deep/dogs/001.jpg"), "dogs"),
        (str(tmp_path / "b/cats/000.jpg"), "cats"),
    ]
    assert all(prediction["probability"] > 0.5 for prediction in result["predictions"])
    assert "accuracy" not in result


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_predict_of_mixed_sizes_gives_each_picture_its_own_prediction(
    tiny_three: Path, tmp_path: Path, batch_size: int
) -> None:
    labels = ["cats", "dogs", "owls", "dogs", "cats", "owls", "owls"]
    sizes = [(30, 30), (30, 30), (30, 30), (8, 99), (30, 30), (8, 99), (8, 99)]
    for number, (label, size) in enumerate(zip(labels, sizes, strict=True)):
        (tmp_path / f"{number}.png").write_bytes(encode(draw_picture(label, number, size)))
    result = run_predict(tiny_three, tmp_path, batch_size=batch_size)
    assert [label for _, label in list_labels(result)] == labels
    assert all(1 / 3 < prediction["probability"] <= 1 for prediction in result["predictions"])


def test_predict_probability_is_that_of_the_label_for_both_kinds_of_heads(
    tiny_two: Path, tiny_three: Path, tmp_path: Path
) -> None:
    pictures = {label: draw_picture(label, 1) for label in ("cats", "dogs")}
    for label, picture in pictures.items():
        (tmp_path / f"{label}.png").write_bytes(encode(picture))
    images = [np.asarray(picture) for picture in pictures.values()]
    sigmoid = run_export(tiny_two, images)[:, 0].tolist()
    softmax = run_export(tiny_three, images).max(axis=1).tolist()
    for model, expected in ((tiny_two, [1 - sigmoid[0], sigmoid[1]]), (tiny_three, softmax)):
        predictions = run_predict(model, tmp_path)["predictions"]
        assert [p["label"] for p in predictions] == ["cats", "dogs"]
        assert [p["probability"] for p in predictions] == pytest.approx(expected, abs=1e-6)


def test_predict_with_bad_pictures_lists_them_and_predicts_the_others(tiny_two: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 2, "dogs": 3})
    sound = (tmp_path / "dogs/001.jpg").read_bytes()
    (tmp_path / "dogs/001.jpg").write_bytes(sound[: len(sound) // 2])
    (tmp_path / "cats/000.jpg").write_bytes(b"")
    (tmp_path / "cats/page.jpg").write_text("<!doctype html>")
    (tmp_path / "cats/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(CommandFailed) as caught:
        run_predict(tiny_two, tmp_path, batch_size=2)
    result = dict(caught.value.result)
    assert list_labels(result) == [
        (str(tmp_path / "cats/001.jpg"), "cats"),
        (str(tmp_path / "dogs/000.jpg"), "dogs"),
        (str(tmp_path / "dogs/002.jpg"), "dogs"),
    ]
    reasons = {Path(failure["image"]).name: failure["reason"] for failure in result["failed"]}
    assert list(reasons) == ["000.jpg", "gone.jpg", "page.jpg", "001.jpg"]
    assert reasons["000.jpg"] == "an empty file"
    assert reasons["gone.jpg"] == "an unreadable file (No such file or directory)"
    assert "web page" in reasons["page.jpg"]
    assert reasons["001.jpg"].startswith("a damaged file (")
    assert result["accuracy"] == 1.0


def test_predict_with_nothing_but_bad_pictures_fails_without_a_prediction(tiny_two: Path, tmp_path: Path) -> None:
    (tmp_path / "only.png").write_bytes(b"")
    with pytest.raises(CommandFailed) as caught:
        run_predict(tiny_two, tmp_path)
    assert caught.value.result == {
        "predictions": [],
        "failed": [{"image": str(tmp_path / "only.png"), "reason": "an empty file"}],
        "skipped": [],
    }


def test_predict_on_a_folder_skips_and_names_what_is_no_picture_by_its_name(tiny_two: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 1})
    (tmp_path / "cats/notes.txt").write_text("notes")
    (tmp_path / "cats/.hidden.jpg").write_bytes(b"")
    result = run_predict(tiny_two, tmp_path)
    assert [Path(image).name for image, _ in list_labels(result)] == ["000.jpg"]
    assert result["skipped"] == [
        {"image": str(tmp_path / "cats/notes.txt"), "reason": "a file with an unknown extension (.txt)"}
    ]


def test_predict_of_a_missing_path_is_wrong_usage_before_the_model_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.jpg: expected a picture or a folder, got nothing there"):
        run_predict(tmp_path / "no model", tmp_path / "nowhere.jpg")


def test_predict_on_a_folder_without_pictures_says_so(tiny_two: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeadstartError, match=r"empty: expected pictures, got none"):
        run_predict(tiny_two, tmp_path / "empty")


def test_predict_on_a_folder_of_other_files_names_one_and_why(tiny_two: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.heic").touch()
    with pytest.raises(HeadstartError) as caught:
        run_predict(tiny_two, tmp_path)
    assert caught.value.exit_status == 1
    assert str(tmp_path / "photo.heic") in caught.value.got


@pytest.mark.parametrize("kind", ["loop", "below a file", "long"])
def test_predict_on_a_path_that_cannot_be_looked_at_is_wrong_usage(tiny_two: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.jpg"
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "below a file":
        path.touch()
        path = path / "inside.jpg"
    else:
        path = tmp_path / ("x" * 300)
    with pytest.raises(UsageError) as caught:
        run_predict(tiny_two, path)
    assert caught.value.where == path


def test_predict_on_a_pipe_lists_it_as_failed_and_does_not_wait(tiny_two: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(CommandFailed) as caught:
        run_predict(tiny_two, tmp_path / "pipe.jpg")
    assert caught.value.result["failed"] == [
        {"image": str(tmp_path / "pipe.jpg"), "reason": "an unreadable file (Not a regular file)"}
    ]


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_predict_with_a_model_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    fill_folder(tmp_path, {"cats": 1})
    path = tmp_path / "model.keras"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(HeadstartError) as caught:
        run_predict(path, tmp_path / "cats")
    assert caught.value.where == path


def test_predict_never_reads_the_class_names_beside_the_model(tiny_two: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 1})
    shutil.copy(tiny_two, tmp_path / "model.keras")
    os.mkfifo(tmp_path / "labels.txt")
    assert [label for _, label in list_labels(run_predict(tmp_path / "model.keras", tmp_path / "cats"))] == ["cats"]


def test_predict_with_a_model_for_other_decoding_warns(
    tiny_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_folder(tmp_path, {"cats": 1})
    run_predict(tiny_two, tmp_path / "cats")
    assert "warning" not in capsys.readouterr().err
    older = remove_digest(tiny_two, tmp_path / "older.keras")
    edit_json(older, tmp_path / "model.keras", lambda card: card.update(decode_policy="another"), CARD_NAME)
    run_predict(tmp_path / "model.keras", tmp_path / "cats")
    assert "warning" in capsys.readouterr().err


def test_predict_with_something_else_for_a_model_is_refused_by_name(tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 1})
    for name in ("cats/000.jpg", "none.keras"):
        with pytest.raises(HeadstartError) as caught:
            run_predict(tmp_path / name, tmp_path / "cats")
        assert caught.value.where == tmp_path / name


def test_predict_accuracy_counts_pictures_in_the_folder_of_their_class(tiny_two: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 3, "dogs": 4})
    shutil.move(tmp_path / "cats/002.jpg", tmp_path / "dogs/a-cat.jpg")
    result = run_predict(tiny_two, tmp_path)
    assert result["accuracy"] == 6 / 7
    (tmp_path / "elsewhere.jpg").write_bytes((tmp_path / "cats/000.jpg").read_bytes())
    assert "accuracy" not in run_predict(tiny_two, tmp_path)


@pytest.mark.parametrize(
    ("images", "accuracy"),
    [
        (["cats/a.jpg", "dogs/deep/b.jpg"], 0.5),
        (["dogs/cats/a.jpg"], 1.0),
        (["cats/dogs/a.jpg"], 0.0),
        (["cats/a.jpg", "other/b.jpg"], None),
        (["cats.jpg"], None),
        ([], None),
    ],
)
def test_accuracy_goes_by_the_nearest_folder_named_as_a_class(images: list[str], accuracy: float | None) -> None:
    predictions = Predictions(["cats", "dogs"])
    predictions.extend(Prediction(Path(image), "cats", 1.0, {}) for image in images)
    assert predictions.accuracy == accuracy


def test_list_pictures_keeps_named_files_and_sorts_within_folders(tmp_path: Path) -> None:
    for name in ("z.txt", "f/b.PNG", "f/a/c.jpg", "f/a.jpeg", "f/data.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths, skipped = list_pictures([tmp_path / "z.txt", tmp_path / "f"])
    names = ["z.txt", "f/a.jpeg", "f/a/c.jpg", "f/b.PNG"]
    assert paths == [tmp_path / name for name in names]
    assert skipped == [UnusedPicture(tmp_path / "f/data.csv", "a file with an unknown extension (.csv)")]


def test_predict_pictures_returns_a_list_of_predictions_with_what_failed_beside_it(
    tiny_three: Path, tmp_path: Path, quiet: Console
) -> None:
    fill_folder(tmp_path, {"cats": 1, "dogs": 2})
    (tmp_path / "dogs/000.jpg").write_bytes(b"")
    (tmp_path / "dogs/notes.txt").touch()
    found = predict_pictures(PredictConfig([tmp_path], tiny_three), quiet)
    assert isinstance(found, list)
    assert [(p.image, p.label) for p in found] == [
        (tmp_path / "cats/000.jpg", "cats"),
        (tmp_path / "dogs/001.jpg", "dogs"),
    ]
    for prediction in found:
        assert list(prediction.probabilities) == ["cats", "dogs", "owls"]
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert prediction.probability == max(prediction.probabilities.values())
    assert [file.image for file in found.failed] == [tmp_path / "dogs/000.jpg"]
    assert [file.image for file in found.skipped] == [tmp_path / "dogs/notes.txt"]
    assert found.accuracy == 1.0
    assert "001.jpg" in found._repr_html_()
