"""The export: one Keras model that agrees with its parts, or no file at all."""

from __future__ import annotations

import codecs
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

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from base.command_line import CommandFailed
from base.errors import HeadstartError, TargetLockedError, UsageError
from base.replace import hold_target, recover_target
from base.terminal import Console
from extract.config import ExtractConfig
from extract.decode import DECODE_POLICY
from extract.run import extract_features
from features.store import FeatureStore
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.conftest import Exported
from tests.train_head.synthetic import OPTIONS, make_store, read_folder, run_export
from train_head.config import ExportConfig, SolverName, TrainConfig
from train_head.export.__main__ import export
from train_head.export.parity import TOLERANCE
from train_head.export.write import ParityError, describe_target, export_run, refuse_foreign_files
from train_head.runs.card import ModelCard, format_labels, read_card
from train_head.runs.read import Run
from train_head.runs.write import write_record
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
from base.replace import replace_folder
from train_head.export.write import describe_target
left = int(sys.argv[3])
rename = pathlib.Path.rename
def rename_or_die(path, target):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    return rename(path, target)
with replace_folder(describe_target(pathlib.Path(sys.argv[2]))) as replacement:
    shutil.copy(sys.argv[1], replacement.staging / "model.keras")
    (replacement.staging / "labels.txt").write_text("cats\\ndogs\\nowls\\n")
    pathlib.Path.rename = rename_or_die
    replacement.commit()
"""


def test_export_writes_model_and_labels_and_says_how_well_they_agree(exported: Exported, trained: Path) -> None:
    result = exported.result
    assert sorted(path.name for path in exported.out.iterdir()) == ["labels.txt", "model.keras"]
    assert result["files"] == [str(exported.model), str(exported.out / "labels.txt")]
    assert 0 <= result["parity"]["keras"] <= TOLERANCE == 1e-5
    assert result["max_difference"] == result["parity"]["keras"]
    assert 0 < result["max_stored_difference"] < 1e-3
    assert (result["num_pictures"], result["num_flipped"]) == (12, 0)
    assert result["accuracy"] == Run(trained).read_metrics()["val_accuracy"] == 1.0
    json.dumps(result, allow_nan=False)


def test_export_of_a_run_on_reduced_inputs_is_the_plain_head_on_raw_pixels(
    shared_store: Path, tmp_path: Path, quiet: Console
) -> None:
    options = OPTIONS | {"solver": SolverName.REDUCED, "epochs": 60, "learning_rate": 1e-2}
    metrics = train_head(TrainConfig(shared_store, tmp_path / "run", **options), quiet)
    result = export(ExportConfig(tmp_path / "run", tmp_path / "out"), quiet)
    assert result["max_difference"] <= TOLERANCE
    assert (result["num_pictures"], result["num_flipped"]) == (12, 0)
    assert result["accuracy"] == metrics["val_accuracy"] == 1.0
    head = keras.saving.load_model(tmp_path / "out/model.keras").get_layer("head")
    assert [layer.name for layer in head.layers] == ["flatten", "hidden", "dropout", "probability"]
    assert [weight.shape for weight in head.get_weights()] == [(6912, 16), (16,), (16, 1), (1,)]


def test_export_keeps_the_class_names_beside_and_inside_the_model(
    exported: Exported, trained: Path, shared_store: Path
) -> None:
    assert (exported.out / "labels.txt").read_text() == "cats\ndogs\n"
    card = read_card(exported.model)
    assert len(card.digest) == 64
    fingerprint = FeatureStore(shared_store).fingerprint
    assert replace(card, digest="") == ModelCard(
        classes=["cats", "dogs"],
        image_size=75,
        decode_policy=DECODE_POLICY,
        cut="mixed7",
        weights="random",
        fingerprint=fingerprint.digest,
        val_accuracy=1.0,
        weights_sha256=fingerprint.weights_sha256,
        run=Run(trained).record.head,
    )


def test_exported_model_equals_backbone_then_head_on_raw_pixels(
    exported: Exported, trained: Path, backbone: Any, shared_pictures: Path
) -> None:
    files = sorted((shared_pictures / "validation").rglob("*.jpg"))
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files[::3]]
    images += [np.asarray(draw_picture("dogs", 900, size)) for size in ((75, 75), (33, 200), (1, 1))]
    weights = Run(trained).read_head()
    resized = [tf.image.resize(image.astype(np.float32), (75, 75), method="bilinear") for image in images]
    features = np.asarray(backbone(tf.stack(resized) / 127.5 - 1, training=False)).reshape(len(images), -1)
    hidden = np.maximum(features @ weights.hidden_kernel + weights.hidden_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ weights.output_kernel + weights.output_bias)))
    outputs = run_export(exported.model, images)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


def test_exported_model_loads_in_plain_keras_elsewhere_and_gives_the_same_numbers(
    exported: Exported, tmp_path: Path
) -> None:
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
    said = json.loads(done.stdout)
    expected = run_export(exported.model, images)
    np.testing.assert_allclose(said["outputs"], [*expected[:2], *expected], rtol=0, atol=1e-6)
    labels = [said["labels"][int(output[0] > 0.5)] for output in said["outputs"][:2]]
    assert labels == ["cats", "dogs"]


def test_export_that_disagrees_fails_and_leaves_an_older_export_as_it_was(
    exported: Exported,
    trained: Path,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = shutil.copytree(exported.out, tmp_path / "out")
    before = read_folder(out)
    monkeypatch.setattr("train_head.export.parity.TOLERANCE", -1.0)
    with pytest.raises(CommandFailed) as caught:
        export(ExportConfig(trained, out), quiet)
    error = caught.value.__cause__
    assert isinstance(error, ParityError)
    result = caught.value.result
    assert result == error.result.to_json()
    assert (result["files"], error.where) == ([], out)
    assert result["parity"]["keras"] == exported.result["parity"]["keras"]
    assert read_folder(out) == before
    assert len(result["worst"]) == 3
    for found in result["worst"]:
        assert found["image"].startswith("validation/")
        assert found["image"] in error.got


def test_export_run_returns_the_files_and_a_model_that_keras_loads(
    trained: Path, exported: Exported, tmp_path: Path, quiet: Console
) -> None:
    result = export_run(ExportConfig(trained, tmp_path / "out", check=2), quiet)
    assert result.files == [tmp_path / "out/model.keras", tmp_path / "out/labels.txt"]
    assert (result.parity.num_pictures, result.num_validation) == (2, 12)
    assert result.to_json().keys() == exported.result.keys()
    images = np.random.default_rng(0).integers(0, 256, (2, 60, 50, 3), np.uint8)
    outputs = np.asarray(result.load()(images.astype(np.float32)))
    np.testing.assert_allclose(outputs, run_export(exported.model, images), rtol=0, atol=1e-6)
    assert "model.keras" in repr(result)
    assert "model.keras" in result._repr_html_()


def test_export_with_pictures_gone_and_files_of_the_users_beside_it_uses_and_leaves_the_others(
    trained: Path, pictures: Path, exported: Exported, tmp_path: Path, quiet: Console
) -> None:
    (pictures / "validation/dogs/103.jpg").write_bytes(encode(draw_picture("dogs", 999), "JPEG"))
    (pictures / "validation/cats/101.jpg").unlink()
    out = shutil.copytree(exported.out, tmp_path / "place/out")
    mine = ("notes.txt", ".partial/model.keras", "model/labels.txt")
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    inode, names = exported.model.stat().st_ino, read_folder(out).keys()
    result = export(ExportConfig(trained, out, images=str(pictures), check=None), quiet)
    assert (result["num_pictures"], result["num_gone"]) == (10, 2)
    assert result["accuracy"] == 1.0
    assert read_folder(out).keys() == names
    assert {(out / name).read_text() for name in mine} == {"mine"}
    assert (out / "model.keras").stat().st_ino != inode
    assert list(out.parent.iterdir()) == [out]


def test_export_without_any_of_its_pictures_names_one_and_writes_nothing(
    trained: Path, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(HeadstartError) as caught:
        export(ExportConfig(trained, tmp_path / "out", images=str(tmp_path)), quiet)
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
)
def test_export_over_somebody_elses_files_is_refused_before_any_work(
    exported: Exported, trained: Path, tmp_path: Path, quiet: Console, files: dict[str, bytes | None]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, data in files.items():
        (out / name).write_bytes(exported.model.read_bytes() if data is None else data)
    before = read_folder(out)
    with (
        mock.patch("train_head.export.rebuild.rebuild_parts") as rebuild_parts,
        pytest.raises(HeadstartError) as caught,
    ):
        export(ExportConfig(trained, out), quiet)
    rebuild_parts.assert_not_called()
    assert caught.value.where == out / list(files)[-1]
    assert read_folder(out) == before


@pytest.mark.parametrize("name", ["model.keras", "labels.txt"])
def test_export_over_a_link_is_refused_and_the_linked_file_stays(
    exported: Exported, trained: Path, tmp_path: Path, quiet: Console, name: str
) -> None:
    out = shutil.copytree(exported.out, tmp_path / "out")
    (out / name).rename(tmp_path / name)
    (out / name).symlink_to(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(HeadstartError) as caught:
        export(ExportConfig(trained, out), quiet)
    assert caught.value.where == out / name
    assert (tmp_path / name).read_bytes() == before
    assert (out / name).is_symlink()


def test_export_of_older_class_names_in_labels_is_recognised(tiny_two: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_two, tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("cats\ndogs\n")
    refuse_foreign_files(tmp_path)
    (tmp_path / "labels.txt").write_text("dogs\ncats\n")
    with pytest.raises(HeadstartError):
        refuse_foreign_files(tmp_path)


def test_export_into_a_folder_that_another_export_writes_is_refused(
    trained: Path, tmp_path: Path, quiet: Console
) -> None:
    out = tmp_path / "out"
    with hold_target(describe_target(out)), pytest.raises(TargetLockedError) as caught:
        export(ExportConfig(trained, out), quiet)
    assert caught.value.where == out
    assert not out.exists()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_export_killed_while_it_replaces_another_is_completed_by_the_next_command(
    tiny_two: Path, tiny_three: Path, tmp_path: Path, steps: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(tiny_two, out / "model.keras")
    (out / "labels.txt").write_text("cats\ndogs\n")
    (out / "notes.txt").write_text("mine")
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_three), str(out), str(steps)],
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


@pytest.mark.parametrize("is_known", ["file", "read-only"])
def test_export_to_a_place_that_cannot_be_written_is_refused_before_any_work(
    trained: Path, tmp_path: Path, quiet: Console, is_known: str
) -> None:
    out = Path("/proc/headstart/out")
    if is_known == "file":
        (tmp_path / "file").write_text("mine")
        out = tmp_path / "file/out"
    with mock.patch("train_head.export.rebuild.rebuild_parts") as rebuild_parts, pytest.raises(HeadstartError):
        export(ExportConfig(trained, out), quiet)
    rebuild_parts.assert_not_called()


def test_export_holds_no_path_of_this_machine(
    exported: Exported, trained: Path, shared_store: Path, shared_pictures: Path
) -> None:
    record = Run(trained).record
    paths = {str(trained), str(shared_store), str(shared_pictures), record.store, str(Path.home()), str(Path.cwd())}
    data = exported.model.read_bytes() + (exported.out / "labels.txt").read_bytes()
    assert not [path for path in paths if path.encode() in data]


def test_export_of_a_store_with_a_weights_file_has_its_name_alone_and_checks_as_many_as_asked_for(
    trained: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "open_store", open_with_weights_file(Run.open_store))
    result = export(ExportConfig(trained, tmp_path / "out", weights="random", check=4), quiet)
    assert result["num_pictures"] == 4
    assert read_card(tmp_path / "out/model.keras").weights == "mine.h5"


def open_with_weights_file(open_store: Callable[..., FeatureStore]) -> Callable[..., FeatureStore]:
    """Open a run's store as if its features had been made with weights from a file."""

    def open_changed(*args: Any) -> FeatureStore:
        store = open_store(*args)
        origin = replace(store.origin, weights_name="file", weights_file="/home/user/secret/mine.h5")
        store.contents = replace(store.contents, origin=origin)
        return store

    return open_changed


@pytest.mark.parametrize("val_accuracy", [1.5, -0.1, float("nan")])
def test_export_of_a_run_with_an_accuracy_that_cannot_be_is_refused(
    run: Path, tmp_path: Path, quiet: Console, val_accuracy: float
) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"val_accuracy": val_accuracy}))
    with pytest.raises(HeadstartError):
        export(ExportConfig(run, tmp_path / "out", check=2), quiet)
    assert not (tmp_path / "out").exists()


LABELS = ["a\nb", "a\\nb", "a\rb", "a\\rb", "a\\", "a\x85b", "a\u2028b", "a\udce9b", "a\\udce9b", "\t", "äöü 猫 🐈"]


def test_labels_are_a_line_each_and_read_back_to_the_class_names() -> None:
    data = format_labels(LABELS)
    for lines in (data.decode().splitlines(), data.decode().split("\n")[:-1]):
        assert len(lines) == len(set(lines)) == len(LABELS)
        assert [codecs.decode(line.encode("latin-1", "backslashreplace"), "unicode_escape") for line in lines] == LABELS
    assert lines[-1] == LABELS[-1]


def test_export_after_pictures_came_and_went_and_were_extracted_again_is_of_the_runs_own(
    run: Path, store: Path, pictures: Path, tmp_path: Path, quiet: Console
) -> None:
    (pictures / "train/cats/004.jpg").unlink()
    fill_folder(pictures, {"train/dogs": 1}, start=50)
    result = extract_features(ExtractConfig(pictures, store, weights="random", image_size=75), quiet)
    assert (result.computed, result.removed, result.failed) == (1, 1, [])
    exported = export(ExportConfig(run, tmp_path / "out", store=str(store)), quiet)
    assert (exported["num_pictures"], exported["num_flipped"]) == (12, 0)


def test_export_with_a_store_of_another_fingerprint_is_refused_with_both(
    trained: Path, tmp_path: Path, quiet: Console, shared_store: Path
) -> None:
    mine = FeatureStore(shared_store)
    other = make_store(
        tmp_path / "other",
        [example.path for example in mine.examples],
        contents=[example.content_hash for example in mine.examples],
        fingerprint=replace(mine.fingerprint, image_size=150),
    )
    with pytest.raises(HeadstartError) as caught:
        export(ExportConfig(trained, tmp_path / "out", store=str(other.path)), quiet)
    assert f"expected a store with fingerprint {mine.fingerprint.digest[:12]}…" in str(caught.value)
    assert f"got {other.fingerprint.digest[:12]}…. Train again on this store" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("formats", ["onnx", "keras,tflite", "keras, keras", ""])
def test_export_to_an_unknown_format_is_wrong_usage(
    trained: Path, tmp_path: Path, quiet: Console, formats: str
) -> None:
    with pytest.raises(UsageError, match=r"--formats: expected keras, got '(onnx|tflite| keras|)'\."):
        export(ExportConfig(trained, tmp_path / "out", formats=formats), quiet)
    assert not (tmp_path / "out").exists()


def test_export_over_a_file_is_wrong_usage(trained: Path, tmp_path: Path, quiet: Console) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match=r"out: expected a folder for the model, got a file"):
        export(ExportConfig(trained, tmp_path / "out"), quiet)
    assert (tmp_path / "out").read_text() == "mine"


def test_export_without_a_run_or_without_its_store_says_what_to_do(run: Path, tmp_path: Path, quiet: Console) -> None:
    with pytest.raises(HeadstartError, match=r"nowhere: expected a run, got .*Train first"):
        export(ExportConfig(tmp_path / "nowhere", tmp_path / "out"), quiet)
    (run / "local.json").write_text(json.dumps({"store": str(tmp_path / "moved")}))
    write_record(run, replace(Run(run).record, store="moved"))
    with pytest.raises(HeadstartError, match=r"moved: expected a feature store"):
        export(ExportConfig(run, tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()
