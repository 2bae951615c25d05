"""`export_run`: one Keras model that agrees with its parts, or no file."""

from __future__ import annotations

import codecs
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from base.command_line import CommandFailed
from base.errors import HeadstartError, StoreMissingError, TargetLockedError, UsageError
from base.replace import hold_target, recover_target
from base.terminal import Console
from extract.config import ExtractConfig
from extract.run import extract_features
from features.store import FeatureStore
from tests.errors import raises
from tests.files import read_files
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.export.conftest import CUT, Exported
from tests.train_head.synthetic import OPTIONS, make_store, run_export
from train_head.config import SolverName, TrainConfig
from train_head.export.__main__ import export
from train_head.export.config import ExportConfig, Format
from train_head.export.earlier import find_earlier_export
from train_head.export.load import compile_outputs, load_export
from train_head.export.parity import TOLERANCE
from train_head.export.pictures import PictureGoneError
from train_head.export.result import ParityError
from train_head.export.stitch import OLDEST_KERAS
from train_head.export.target import describe_target, refuse_foreign_files
from train_head.export.write import export_run
from train_head.finetuning.backbone import rebuild_backbone
from train_head.predict.config import PredictConfig
from train_head.predict.run import predict_pictures
from train_head.runs.card import ModelCard, format_labels, read_card
from train_head.runs.read import Run
from train_head.runs.record import read_record
from train_head.runs.write import write_metrics, write_record
from train_head.train import train_head

PLAIN_KERAS = """
import sys
for name in ("extract", "features", "train_head", "tests"):
    sys.modules[name] = None
import json, keras, numpy as np
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
images = np.load(sys.argv[2])
outputs = model.predict(np.stack([images["0"], images["1"]]), verbose=0).tolist()
outputs += [np.asarray(model(images[name][None].astype("float32")))[0].tolist() for name in images]
print(json.dumps({"outputs": outputs, "labels": open(sys.argv[3]).read().splitlines()}))
"""
KILLED = """
import os, pathlib, shutil, sys
from base import replace
from train_head.export.target import describe_target
left = int(sys.argv[3])
rename = replace.rename
def rename_or_die(path, target):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    return rename(path, target)
with replace.replace_folder(describe_target(pathlib.Path(sys.argv[2]))) as replacement:
    shutil.copy(sys.argv[1], replacement.staging / "model.keras")
    (replacement.staging / "labels.txt").write_text("cats\\ndogs\\nowls\\n")
    replace.rename = rename_or_die
    replacement.commit()
"""


def test_export_run_writes_model_and_labels_that_agree_with_the_parts(exported: Exported, early_run: Path) -> None:
    files, parity = exported.result.files, exported.result.parity
    assert files == [exported.out / "model.keras", exported.out / "labels.txt"]
    documents = [exported.out / name for name in ("model.json", "parity.json", "README.md")]
    assert sorted(exported.out.iterdir()) == sorted([*files, *documents])
    assert files[1].read_text() == "cats\ndogs\n"
    assert 0 <= parity.max_difference <= TOLERANCE == 1e-5
    assert 0 < parity.max_stored_difference < 1e-3
    assert (parity.num_pictures, parity.num_flipped, exported.result.num_validation) == (12, 0, 12)
    assert parity.accuracy == Run(early_run).accuracy == 1.0


def test_export_result_converts_to_json_text_and_html(exported: Exported) -> None:
    result = exported.result.to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result | {"worst": list(result["worst"])}
    assert result["files"] == [str(file) for file in exported.result.files]
    assert result["parity"] == {"keras": result["max_difference"]}
    assert str(exported.model) in repr(exported.result)
    shown = exported.result._repr_html_()
    assert [text in shown for text in (str(exported.out), "model.keras", "cats, dogs")] == [True] * 3
    missing = replace(exported.result, files=[exported.out / "missing" / "model.keras"])
    assert "missing" in missing._repr_html_()


def test_export_result_to_json_replaces_nan(exported: Exported) -> None:
    parity = exported.result.parity
    worst = ({"image": "a.jpg", "difference": float("nan")},)
    broken = replace(exported.result, parity=replace(parity, max_difference=float("nan"), worst=worst))
    result = json.loads(json.dumps(broken.to_json(), allow_nan=False))
    assert (result["max_difference"], result["parity"]["keras"]) == (None, None)
    assert result["worst"] == [{"image": "a.jpg", "difference": None}]
    assert result["accuracy"] == 1.0


def test_export_of_a_reduced_run_has_the_head_on_all_inputs(early_store: Path, tmp_path: Path, quiet: Console) -> None:
    import keras

    options = OPTIONS | {"solver": SolverName.REDUCED, "epochs": 60, "learning_rate": 1e-2, "no_report": True}
    metrics = train_head(TrainConfig(early_store, tmp_path / "run", **options), quiet)
    result = export(ExportConfig(tmp_path / "run", tmp_path / "out"), quiet)
    assert result["max_difference"] <= TOLERANCE
    assert (result["num_pictures"], result["num_flipped"]) == (12, 0)
    assert result["accuracy"] == metrics["val_accuracy"] == 1.0
    head = keras.saving.load_model(tmp_path / "out/model.keras").get_layer("head")
    assert [layer.name for layer in head.layers] == ["flatten", "hidden", "dropout", "probability"]
    assert [weight.shape for weight in head.get_weights()] == [(12544, 16), (16,), (16, 1), (1,)]


@pytest.mark.parametrize("solver", [SolverName.FULL, SolverName.REDUCED, SolverName.RIDGE])
def test_export_of_a_linear_head_gives_its_predictions(
    early_store: Path, tmp_path: Path, quiet: Console, solver: SolverName
) -> None:
    options = OPTIONS | {"solver": solver, "units": 0, "learning_rate": 1e-2, "no_report": True}
    train_head(TrainConfig(early_store, tmp_path / "run", **options), quiet)
    result = export_run(ExportConfig(tmp_path / "run", tmp_path / "out"), quiet)
    assert result.parity.ok
    model, (_, rebuilt) = result.load(), load_export(tmp_path / "out/model.keras")
    assert [layer.name for layer in model.get_layer("head").layers] == ["flatten", "probability"]
    images = np.random.default_rng(0).uniform(0, 255, (2, 90, 80, 3)).astype(np.float32)
    loaded, exported = (compile_outputs(each)(images).probabilities for each in (rebuilt, model))
    np.testing.assert_allclose(loaded, exported, atol=1e-6)


def test_export_divides_the_logits_by_the_temperature(run: Path, tmp_path: Path, quiet: Console) -> None:
    write_record(run, replace(read_record(run), temperature=2.5))
    result = export_run(ExportConfig(run, tmp_path / "out"), quiet)
    assert result.parity.ok
    fitted, exported = Run(run).read_head().list_weights(), result.load().get_layer("head").get_weights()
    for number, (mine, theirs) in enumerate(zip(exported, fitted, strict=True)):
        np.testing.assert_allclose(mine, theirs / (2.5 if number >= 2 else 1), rtol=1e-6)


def test_export_card_describes_the_run_and_its_features(exported: Exported, early_run: Path, early_store: Path) -> None:
    card = read_card(exported.model)
    assert len(card.digest) == 64
    fingerprint = FeatureStore(early_store).fingerprint
    assert replace(card, digest="") == ModelCard(
        classes=["cats", "dogs"],
        image_size=75,
        decode_policy=fingerprint.decode_policy,
        cut=CUT,
        weights="random",
        fingerprint=fingerprint.digest,
        val_accuracy=1.0,
        weights_sha256=fingerprint.weights_sha256,
        run=Run(early_run).record.head,
        outlier_threshold=Run(early_run).metrics["outliers"]["threshold"],
        pool="none",
        oldest_keras=OLDEST_KERAS,
    )


def test_exported_model_equals_backbone_then_head_on_raw_pixels(
    exported: Exported, early_run: Path, early_store: Path, shared_pictures: Path, quiet: Console
) -> None:
    import tensorflow as tf

    files = sorted((shared_pictures / "validation").rglob("*.jpg"))
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files[::3]]
    images += [np.asarray(draw_picture("dogs", 900, size)) for size in ((75, 75), (33, 200), (1, 1))]
    weights = Run(early_run).read_head()
    resized = [tf.image.resize(image.astype(np.float32), (75, 75), method="bilinear") for image in images]
    backbone = rebuild_backbone(FeatureStore(early_store), "", quiet)
    features = np.asarray(backbone(tf.stack(resized) / 127.5 - 1, training=False)).reshape(len(images), -1)
    hidden = np.maximum(features @ weights.input_kernel + weights.input_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ weights.output_kernel + weights.output_bias)))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(run_export(exported.model, images), expected, rtol=0, atol=1e-5)
    loaded = exported.result.load()
    np.testing.assert_allclose([loaded(image[None])[0] for image in images], expected, rtol=0, atol=1e-5)


def test_predict_with_the_exported_model_gives_the_predictions_of_training(
    exported: Exported, early_run: Path, shared_pictures: Path, quiet: Console
) -> None:
    with (early_run / "predictions.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    found = predict_pictures(PredictConfig([shared_pictures / "validation"], exported.model), quiet)
    labels = [(prediction.image, prediction.label) for prediction in found]
    assert labels == [(shared_pictures / row["path"], row["predicted"]) for row in rows]
    expected = [float(row[f"p({row['predicted']})"]) for row in rows]
    np.testing.assert_allclose([prediction.probability for prediction in found], expected, atol=1e-3)
    assert (found.accuracy, found.failed, found.skipped) == (1.0, [], [])


def test_exported_model_loads_in_plain_keras_without_headstart(exported: Exported, tmp_path: Path) -> None:
    drawn = [("cats", (90, 80)), ("dogs", (90, 80)), ("cats", (20, 300)), ("dogs", (1, 1))]
    images = [np.asarray(draw_picture(label, 500, size)) for label, size in drawn]
    np.savez(tmp_path / "images.npz", **{str(n): image for n, image in enumerate(images)})  # type: ignore[arg-type]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(exported.model, elsewhere / "any name.keras")
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c", PLAIN_KERAS, "any name.keras"),
            *(str(tmp_path / "images.npz"), str(exported.out / "labels.txt")),
        ],
        cwd=elsewhere,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    expected = run_export(exported.model, images)
    np.testing.assert_allclose(printed["outputs"], [*expected[:2], *expected], rtol=0, atol=1e-6)
    assert [printed["labels"][int(output[0] > 0.5)] for output in printed["outputs"][:2]] == ["cats", "dogs"]


def test_export_that_differs_from_its_parts_is_an_error_and_keeps_the_earlier_export(
    exported: Exported, early_run: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(exported.out, tmp_path / "out")
    before = read_files(out)
    monkeypatch.setattr("train_head.export.parity.TOLERANCE", -1.0)
    with pytest.raises(CommandFailed) as caught:
        export(ExportConfig(early_run, out, check=None), quiet)
    error = caught.value.__cause__
    assert isinstance(error, ParityError)
    result = caught.value.result
    assert result == error.result.to_json()
    assert (result["files"], error.where) == ([], out)
    assert result["parity"]["keras"] == exported.result.parity.max_difference
    assert read_files(out) == before
    assert len(result["worst"]) == 3
    for picture in result["worst"]:
        assert picture["image"].startswith("validation/")
        assert picture["image"] in error.got


def test_export_skips_pictures_that_are_gone_and_keeps_foreign_files(
    early_run: Path,
    pictures: Path,
    exported: Exported,
    tmp_path: Path,
    quiet: Console,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (pictures / "validation/dogs/103.jpg").write_bytes(encode(draw_picture("dogs", 999), "JPEG"))
    (pictures / "validation/cats/101.jpg").unlink()
    out = shutil.copytree(exported.out, tmp_path / "place/out")
    foreign = ("notes.txt", ".partial/model.keras", "model/labels.txt")
    for name in foreign:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    inode, names = (out / "model.keras").stat().st_ino, read_files(out).keys()
    config = ExportConfig(early_run, out, images=str(pictures), check=None)
    result = export(config, quiet)
    assert (result["num_pictures"], result["num_gone"], result["accuracy"]) == (10, 2, 1.0)
    (warning,) = capsys.readouterr().err.splitlines()
    assert ("2 " in warning, "10" in warning) == (True, True)
    assert read_files(out).keys() == names
    assert {(out / name).read_text() for name in foreign} == {"mine"}
    assert (out / "model.keras").stat().st_ino != inode
    assert list(out.parent.iterdir()) == [out]
    # The pictures may be found the next time.
    assert find_earlier_export(Run(early_run), config, [Format.KERAS]) is None


def test_export_without_any_picture_is_an_error_that_names_one(early_run: Path, tmp_path: Path, quiet: Console) -> None:
    with pytest.raises(PictureGoneError) as caught:
        export(ExportConfig(early_run, tmp_path / "out", images=str(tmp_path)), quiet)
    assert (tmp_path / "validation") in Path(str(caught.value.where)).parents
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "files",
    [
        {"model.keras": b"mine"},
        {"labels.txt": b"cats\ndogs\n"},
        {"model.keras": None, "labels.txt": b"mine\n"},
        {"model.keras": None, "labels.txt": b"cats\ndogs\n" + bytes(10**6)},
    ],
    ids=["foreign model", "labels alone", "foreign labels", "long labels"],
)
def test_export_over_foreign_files_is_refused_before_any_work(
    tiny_two: Path, early_run: Path, tmp_path: Path, quiet: Console, files: dict[str, bytes | None]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, data in files.items():
        (out / name).write_bytes(tiny_two.read_bytes() if data is None else data)
    before = read_files(out)
    with (
        mock.patch("train_head.export.rebuild.rebuild_parts") as rebuild_parts,
        raises(HeadstartError, where=out / list(files)[-1]),
    ):
        export(ExportConfig(early_run, out), quiet)
    rebuild_parts.assert_not_called()
    assert read_files(out) == before


@pytest.mark.parametrize("name", ["model.keras", "labels.txt"])
def test_export_over_a_link_is_refused_and_keeps_the_linked_file(
    exported: Exported, early_run: Path, tmp_path: Path, quiet: Console, name: str
) -> None:
    out = shutil.copytree(exported.out, tmp_path / "out")
    (out / name).rename(tmp_path / name)
    (out / name).symlink_to(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with raises(HeadstartError, where=out / name):
        export(ExportConfig(early_run, out), quiet)
    assert (tmp_path / name).read_bytes() == before
    assert (out / name).is_symlink()


def test_refuse_foreign_files_accepts_labels_of_earlier_versions(tiny_two: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_two, tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("cats\ndogs\n")
    refuse_foreign_files(tmp_path)
    (tmp_path / "labels.txt").write_text("dogs\ncats\n")
    with raises(HeadstartError, where=tmp_path / "labels.txt"):
        refuse_foreign_files(tmp_path)


def test_export_into_a_locked_folder_is_refused(early_run: Path, tmp_path: Path, quiet: Console) -> None:
    out = tmp_path / "out"
    with hold_target(describe_target(out)), raises(TargetLockedError, where=out):
        export(ExportConfig(early_run, out), quiet)
    assert not out.exists()


@pytest.mark.parametrize("num_renames", [0, 1, 3])
def test_export_killed_during_the_replacement_is_completed_by_the_next_command(
    tiny_two: Path, tiny_three: Path, tmp_path: Path, num_renames: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(tiny_two, out / "model.keras")
    (out / "labels.txt").write_text("cats\ndogs\n")
    (out / "notes.txt").write_text("mine")
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_three), str(out), str(num_renames)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == -9, child.stderr
    recover_target(describe_target(out))
    assert read_card(out / "model.keras").classes == ["cats", "dogs", "owls"]
    assert (out / "labels.txt").read_text() == "cats\ndogs\nowls\n"
    assert sorted(path.name for path in out.iterdir()) == ["labels.txt", "model.keras", "notes.txt"]
    with hold_target(describe_target(out)):
        pass
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("kind", ["below a file", "read-only"])
def test_export_to_an_unwritable_folder_is_refused_before_any_work(
    early_run: Path, tmp_path: Path, quiet: Console, kind: str
) -> None:
    out = Path("/proc/headstart/out")
    if kind == "below a file":
        (tmp_path / "file").write_text("mine")
        out = tmp_path / "file/out"
    with mock.patch("train_head.export.rebuild.rebuild_parts") as rebuild_parts, pytest.raises(HeadstartError):
        export(ExportConfig(early_run, out), quiet)
    rebuild_parts.assert_not_called()


def test_export_contains_no_path_of_this_machine(
    exported: Exported, early_run: Path, early_store: Path, shared_pictures: Path
) -> None:
    record = Run(early_run).record
    paths = {str(early_run), str(early_store), str(shared_pictures), record.store, str(Path.home()), str(Path.cwd())}
    data = exported.model.read_bytes() + (exported.out / "labels.txt").read_bytes()
    assert not [path for path in paths if path.encode() in data]


def open_with_weights_file(open_store: Callable[..., FeatureStore]) -> Callable[..., FeatureStore]:
    """Wrap `Run.open_store`: the store records a weights file as source of its features."""

    def open_changed(*args: Any) -> FeatureStore:
        store = open_store(*args)
        origin = replace(store.origin, weights_name="file", weights_file="/home/user/secret/mine.h5")
        store.contents = replace(store.contents, origin=origin)
        return store

    return open_changed


def test_export_with_a_weights_file_records_only_its_name_and_checks_the_given_number(
    early_run: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "open_store", open_with_weights_file(Run.open_store))
    result = export(ExportConfig(early_run, tmp_path / "out", weights="random", check=4), quiet)
    assert result["num_pictures"] == 4
    assert read_card(tmp_path / "out/model.keras").weights == "mine.h5"


def test_export_of_a_run_with_an_impossible_accuracy_is_refused(run: Path, tmp_path: Path, quiet: Console) -> None:
    write_metrics(run, Run(run).metrics | {"val_accuracy": 1.5})
    write_record(run, Run(run).record)
    with raises(HeadstartError, where=run):
        export(ExportConfig(run, tmp_path / "out", check=2), quiet)
    assert not (tmp_path / "out").exists()


LABELS = ["a\nb", "a\\nb", "a\rb", "a\\rb", "a\\", "a\x85b", "a\u2028b", "a\udce9b", "a\\udce9b", "\t", "äöü 猫 🐈"]


@pytest.mark.unit
def test_format_labels_writes_one_line_each_that_parses_to_the_class_name() -> None:
    data = format_labels(LABELS)
    for lines in (data.decode().splitlines(), data.decode().split("\n")[:-1]):
        assert len(lines) == len(set(lines)) == len(LABELS)
        assert [codecs.decode(line.encode("latin-1", "backslashreplace"), "unicode_escape") for line in lines] == LABELS
    assert lines[-1] == LABELS[-1]


def test_export_after_the_store_was_updated_checks_the_pictures_of_the_run(
    run: Path, early_store: Path, pictures: Path, tmp_path: Path, quiet: Console
) -> None:
    store = shutil.copytree(early_store, tmp_path / "store")
    (pictures / "train/cats/004.jpg").unlink()
    fill_folder(pictures, {"train/dogs": 1}, start=50)
    result = extract_features(ExtractConfig(pictures, store, weights="random", image_size=75, cut=CUT), quiet)
    assert (result.computed, result.removed, result.failed) == (1, 1, [])
    exported = export(ExportConfig(run, tmp_path / "out", store=str(store)), quiet)
    assert (exported["num_pictures"], exported["num_flipped"]) == (12, 0)


def test_export_with_a_store_of_another_fingerprint_is_refused(
    early_run: Path, tmp_path: Path, quiet: Console, early_store: Path
) -> None:
    mine = FeatureStore(early_store)
    other = make_store(
        tmp_path / "other",
        [example.path for example in mine.examples],
        contents=[example.content_hash for example in mine.examples],
        fingerprint=replace(mine.fingerprint, image_size=150),
    )
    with pytest.raises(HeadstartError) as caught:
        export(ExportConfig(early_run, tmp_path / "out", store=str(other.path)), quiet)
    assert mine.fingerprint.digest[:12] in caught.value.expected
    assert other.fingerprint.digest[:12] in caught.value.got
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("formats", "got"), [("pdf", "pdf"), ("keras,tflite", "tflite"), ("Keras", "Keras"), ("keras,", ""), ("", "")]
)
def test_export_to_an_unknown_format_is_a_usage_error(
    early_run: Path, tmp_path: Path, quiet: Console, formats: str, got: str
) -> None:
    with raises(UsageError, where="--formats", got=repr(got)):
        export(ExportConfig(early_run, tmp_path / "out", formats=formats), quiet)
    assert not (tmp_path / "out").exists()


def test_export_over_a_file_is_a_usage_error(early_run: Path, tmp_path: Path, quiet: Console) -> None:
    (tmp_path / "out").write_text("mine")
    with raises(UsageError, where=tmp_path / "out"):
        export(ExportConfig(early_run, tmp_path / "out"), quiet)
    assert (tmp_path / "out").read_text() == "mine"


def test_export_without_a_run_is_refused(tmp_path: Path, quiet: Console) -> None:
    with raises(HeadstartError, where=tmp_path / "nowhere"):
        export(ExportConfig(tmp_path / "nowhere", tmp_path / "out"), quiet)


def test_export_without_the_store_of_the_run_is_refused(run: Path, tmp_path: Path, quiet: Console) -> None:
    (run / "local.json").write_text(json.dumps({"store": str(tmp_path / "moved")}))
    write_record(run, replace(Run(run).record, store="moved"))
    with raises(StoreMissingError, where=tmp_path / "moved"):
        export(ExportConfig(run, tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()
