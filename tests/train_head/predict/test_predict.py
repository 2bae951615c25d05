"""`predict_pictures` classifies pictures with an exported model alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.command_line import CommandFailed
from base.errors import HeadstartError, UsageError
from base.terminal import Console, ConsoleOptions
from extract.decoding.policy import DecodePolicy
from tests.errors import raises
from tests.inputs.makers import write_png, write_rows
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.export.edits import edit_json, remove_digest
from tests.train_head.synthetic import run_export
from train_head.predict.__main__ import predict
from train_head.predict.config import PredictConfig
from train_head.predict.list import list_pictures
from train_head.predict.prediction import Prediction, Predictions
from train_head.predict.run import predict_pictures
from train_head.runs.card import CARD_NAME


def run_predict(model: Path, *files: Path, batch_size: int = 32) -> dict[str, Any]:
    return dict(predict(PredictConfig(list(files), model, batch_size), Console(ConsoleOptions(quiet=True))))


def run_failing(model: Path, *files: Path, batch_size: int = 32) -> dict[str, Any]:
    """Run the command, which fails for some pictures, and return its result."""
    with pytest.raises(CommandFailed) as caught:
        run_predict(model, *files, batch_size=batch_size)
    return dict(caught.value.result)


def list_labels(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(prediction["image"], prediction["label"]) for prediction in result["predictions"]]


def test_predict_keeps_the_order_of_files_and_folders(tiny_two: Path, tmp_path: Path) -> None:
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
def test_predict_of_pictures_of_mixed_sizes_classifies_each(tiny_three: Path, tmp_path: Path, batch_size: int) -> None:
    labels = ["cats", "dogs", "owls", "dogs", "cats", "owls", "owls"]
    sizes = [(30, 30), (30, 30), (30, 30), (8, 99), (30, 30), (8, 99), (8, 99)]
    for number, (label, size) in enumerate(zip(labels, sizes, strict=True)):
        (tmp_path / f"{number}.png").write_bytes(encode(draw_picture(label, number, size)))
    result = run_predict(tiny_three, tmp_path, batch_size=batch_size)
    assert [label for _, label in list_labels(result)] == labels
    assert all(1 / 3 < prediction["probability"] <= 1 for prediction in result["predictions"])


def test_predict_returns_the_probability_of_the_label_for_sigmoid_and_softmax(
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


def test_predict_with_bad_pictures_lists_them_and_classifies_the_others(tiny_two: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 2, "dogs": 3})
    sound = (tmp_path / "dogs/001.jpg").read_bytes()
    (tmp_path / "dogs/001.jpg").write_bytes(sound[: len(sound) // 2])
    (tmp_path / "cats/000.jpg").write_bytes(b"")
    (tmp_path / "cats/page.jpg").write_text("<!doctype html>")
    (tmp_path / "cats/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    result = run_failing(tiny_two, tmp_path, batch_size=2)
    assert list_labels(result) == [
        (str(tmp_path / "cats/001.jpg"), "cats"),
        (str(tmp_path / "dogs/000.jpg"), "dogs"),
        (str(tmp_path / "dogs/002.jpg"), "dogs"),
    ]
    reasons = {Path(failure["image"]).name: failure["reason"] for failure in result["failed"]}
    assert list(reasons) == ["000.jpg", "gone.jpg", "page.jpg", "001.jpg"]
    assert all(reasons.values())
    assert result["accuracy"] == 1.0


def test_predict_with_bad_pictures_only_returns_no_accuracy(tiny_two: Path, tmp_path: Path) -> None:
    (tmp_path / "only.png").write_bytes(b"")
    result = run_failing(tiny_two, tmp_path)
    assert result.keys() == {"predictions", "failed", "skipped"}
    assert [file["image"] for file in result["failed"]] == [str(tmp_path / "only.png")]
    assert result["predictions"] == result["skipped"] == []


def test_predict_skips_files_that_are_not_pictures(
    tiny_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_folder(tmp_path, {"cats": 1})
    (tmp_path / "cats/notes.txt").write_text("notes")
    (tmp_path / "cats/.hidden.jpg").write_bytes(b"")
    result = run_predict(tiny_two, tmp_path)
    assert [Path(image).name for image, _ in list_labels(result)] == ["000.jpg"]
    hidden, skipped = result["skipped"]
    assert (hidden["image"], skipped["image"]) == (str(tmp_path / "cats/.hidden.jpg"), str(tmp_path / "cats/notes.txt"))
    assert ".txt" in skipped["reason"]
    assert capsys.readouterr().err == ""


def test_predict_warns_of_pictures_of_an_unknown_format(
    tiny_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_folder(tmp_path, {"cats": 1})
    (tmp_path / "cats/photo.svg").touch()
    result = run_predict(tiny_two, tmp_path)
    assert [file["image"] for file in result["skipped"]] == [str(tmp_path / "cats/photo.svg")]
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "cats/photo.svg") in warning


@pytest.mark.unit
def test_predict_of_a_missing_path_is_a_usage_error_before_the_model_is_opened(tmp_path: Path) -> None:
    with raises(UsageError, where=tmp_path / "nowhere.jpg"):
        run_predict(tmp_path / "no model", tmp_path / "nowhere.jpg")


@pytest.mark.unit
def test_list_pictures_of_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with raises(HeadstartError, where=tmp_path, got="none"):
        list_pictures([tmp_path])


@pytest.mark.unit
def test_list_pictures_of_a_folder_of_other_files_is_an_error_that_names_one(tmp_path: Path) -> None:
    (tmp_path / "photo.svg").touch()
    with raises(HeadstartError, where=tmp_path) as caught:
        list_pictures([tmp_path])
    assert caught.value.exit_status == 1
    assert str(tmp_path / "photo.svg") in caught.value.got


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["loop", "below a file", "long"])
def test_list_pictures_of_an_invalid_path_is_a_usage_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.jpg"
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "below a file":
        path.touch()
        path = path / "inside.jpg"
    else:
        path = tmp_path / ("x" * 300)
    with raises(UsageError, where=path):
        list_pictures([path])


def test_predict_on_a_pipe_lists_it_as_failed_without_waiting(tiny_two: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    result = run_failing(tiny_two, tmp_path / "pipe.jpg")
    assert [file["image"] for file in result["failed"]] == [str(tmp_path / "pipe.jpg")]


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["missing", "picture", "pipe", "folder", "device"])
def test_predict_with_an_invalid_model_file_is_refused(tmp_path: Path, kind: str) -> None:
    fill_folder(tmp_path, {"cats": 1})
    path = tmp_path / "model.keras"
    if kind == "picture":
        shutil.copy(tmp_path / "cats/000.jpg", path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with raises(UsageError if kind == "missing" else HeadstartError, where=path):
        run_predict(path, tmp_path / "cats")


def test_predict_does_not_read_the_labels_beside_the_model(tiny_two: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 1})
    shutil.copy(tiny_two, tmp_path / "model.keras")
    os.mkfifo(tmp_path / "labels.txt")
    assert [label for _, label in list_labels(run_predict(tmp_path / "model.keras", tmp_path / "cats"))] == ["cats"]


def test_predict_with_a_model_of_another_decode_policy_warns(
    tiny_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_folder(tmp_path, {"cats": 1})
    run_predict(tiny_two, tmp_path / "cats")
    assert capsys.readouterr().err == ""
    older = remove_digest(tiny_two, tmp_path / "older.keras")
    edit_json(older, tmp_path / "model.keras", lambda card: card.update(decode_policy="another"), CARD_NAME)
    run_predict(tmp_path / "model.keras", tmp_path / "cats")
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "model.keras") in warning
    assert "'another'" in warning
    assert repr(str(DecodePolicy())) in warning


def set_policy(policy: DecodePolicy) -> Callable[[dict[str, Any]], object]:
    return lambda card: card.update(decode_policy=str(policy))


def test_predict_decodes_by_the_policy_of_the_model(
    tiny_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.asarray(draw_picture("cats", 1)).astype(np.uint16)
    (tmp_path / "cats").mkdir()
    for bits in (8, 12, 16):
        data = write_png(90, 80, 16, 2, write_rows((pixels << (bits - 8)).astype(np.uint16)))
        (tmp_path / f"cats/{bits}.png").write_bytes(data)
    clear = np.dstack([pixels.astype(np.uint8), np.zeros((80, 90), np.uint8)])
    (tmp_path / "cats/clear.png").write_bytes(encode(Image.fromarray(clear)))
    found: list[dict[str, float]] = []
    for policy in (DecodePolicy(), DecodePolicy(12), DecodePolicy(edition=1)):
        older = remove_digest(tiny_two, tmp_path / "older.keras")
        edit_json(older, tmp_path / f"{len(found)}.keras", set_policy(policy), CARD_NAME)
        run = run_failing if policy.sample_bits == 12 else run_predict
        result = run(tmp_path / f"{len(found)}.keras", tmp_path / "cats")
        found.append({Path(row["image"]).name: row["probability"] for row in result["predictions"]})
        older.unlink()
    default, twelve, first = found
    assert capsys.readouterr().err == ""
    assert default["16.png"] == twelve["12.png"] == default["clear.png"] > default["12.png"]
    assert default.keys() - twelve.keys() == {"16.png"}
    assert first["clear.png"] != default["clear.png"]


def test_predict_accuracy_takes_class_folders_as_labels(tiny_two: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 3, "dogs": 4})
    shutil.move(tmp_path / "cats/002.jpg", tmp_path / "dogs/a-cat.jpg")
    result = run_predict(tiny_two, tmp_path)
    assert result["accuracy"] == 6 / 7
    (tmp_path / "elsewhere.jpg").write_bytes((tmp_path / "cats/000.jpg").read_bytes())
    assert "accuracy" not in run_predict(tiny_two, tmp_path)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("images", "accuracy"),
    [
        (["cats/a.jpg", "dogs/deep/b.jpg"], 0.5),
        (["dogs/cats/a.jpg"], 1.0),
        (["cats/dogs/a.jpg"], 0.0),
        (["cats/a.jpg", "other/b.jpg"], None),
        (["cats.jpg"], None),
        (["Mu\u0308ller/a.jpg", "cats/b.jpg"], 0.5),
        ([], None),
    ],
)
def test_predictions_accuracy_takes_the_nearest_class_folder_as_label(
    images: list[str], accuracy: float | None
) -> None:
    predictions = Predictions(["cats", "dogs", "M\u00fcller"])
    predictions.extend(
        Prediction(Path(image), "cats", 1.0, predictions.classes, np.array([1.0, 0.0, 0.0])) for image in images
    )
    assert predictions.accuracy == accuracy


@pytest.mark.unit
def test_list_pictures_keeps_the_order_of_files_and_sorts_within_folders(tmp_path: Path) -> None:
    for name in ("z.txt", "f/b.PNG", "f/a/c.jpg", "f/a.jpeg", "f/data.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths, skipped = list_pictures([tmp_path / "z.txt", tmp_path / "f"])
    names = ["z.txt", "f/a.jpeg", "f/a/c.jpg", "f/b.PNG"]
    assert paths == [str(tmp_path / name) for name in names]
    assert [file.image for file in skipped] == [tmp_path / "f/data.csv"]


def test_predict_pictures_lists_failed_and_skipped_files(tiny_three: Path, tmp_path: Path, quiet: Console) -> None:
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
        assert prediction.label == max(prediction.probabilities, key=lambda label: prediction.probabilities[label])
    assert [file.image for file in found.failed] == [tmp_path / "dogs/000.jpg"]
    assert [file.image for file in found.skipped] == [tmp_path / "dogs/notes.txt"]
    assert found.accuracy == 1.0
    assert "001.jpg" in found._repr_html_()
    assert found[-1].image == tmp_path / "dogs/001.jpg"
    first = found[:1]
    assert isinstance(first, Predictions)
    assert [each.image for each in first] == [tmp_path / "cats/000.jpg"]
    assert "001.jpg" not in first._repr_html_()


def test_predict_without_tensorflow_does_not_import_it(tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 2})
    (tmp_path / "model.onnx").touch()
    code = f"""
import sys
from pathlib import Path
from unittest import mock
from base.terminal import Console
from tests.train_head.predict.fake import make_card, make_model
from train_head.predict.config import PredictConfig
from train_head.predict.run import predict_pictures
model = make_model(Path({str(tmp_path / "model.onnx")!r}), make_card())
with mock.patch("train_head.predict.run.open_model", lambda path, has_features: model):
    found = predict_pictures(PredictConfig([Path({str(tmp_path)!r})], model.path), Console())
assert len(found) == 2
assert not {{"tensorflow", "keras", "matplotlib", "scipy", "sklearn"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
