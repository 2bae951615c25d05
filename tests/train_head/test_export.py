"""The export: one Keras model that agrees with its parts, or no file at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from extract.config import ExtractConfig
from extract.decode import DECODE_POLICY
from extract.run import extract_features
from features.command import CommandFailed
from features.console import Console
from features.errors import HeadstartError, UsageError
from features.store import FeatureStore
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.conftest import Exported
from tests.train_head.made import OPTIONS, make_store, read_folder
from train_head.config import ExportConfig, SolverName, TrainConfig
from train_head.export import export
from train_head.exported import ExportedModel
from train_head.model_card import ModelCard
from train_head.model_file import read_card
from train_head.parity import TOLERANCE
from train_head.run import Run
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


def test_export_keeps_the_class_names_beside_and_inside_the_model(exported: Exported, shared_store: Path) -> None:
    assert (exported.out / "labels.txt").read_text() == "cats\ndogs\n"
    assert read_card(exported.model) == ModelCard(
        classes=["cats", "dogs"],
        image_size=75,
        decode_policy=DECODE_POLICY,
        cut="mixed7",
        weights="random",
        fingerprint=FeatureStore(shared_store).fingerprint.digest,
        val_accuracy=1.0,
    )


def test_exported_model_equals_backbone_then_head_on_raw_pixels(
    exported_model: ExportedModel, trained: Path, backbone: Any, shared_pictures: Path
) -> None:
    files = sorted((shared_pictures / "validation").rglob("*.jpg"))
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files[::3]]
    images += [np.asarray(draw_picture("dogs", 900, size)) for size in ((75, 75), (33, 200), (1, 1))]
    weights = Run(trained).read_head()
    resized = [tf.image.resize(image.astype(np.float32), (75, 75), method="bilinear") for image in images]
    features = np.asarray(backbone(tf.stack(resized) / 127.5 - 1, training=False)).reshape(len(images), -1)
    hidden = np.maximum(features @ weights.hidden_kernel + weights.hidden_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ weights.output_kernel + weights.output_bias)))
    outputs = list(exported_model.predict(images, 4))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


def test_exported_model_loads_in_plain_keras_elsewhere_and_gives_the_same_numbers(
    exported: Exported, exported_model: ExportedModel, tmp_path: Path
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
    expected = list(exported_model.predict(images, 8))
    np.testing.assert_allclose(said["outputs"], expected[:2] + expected, rtol=0, atol=1e-6)
    labels = [said["labels"][int(output[0] > 0.5)] for output in said["outputs"][:2]]
    assert labels == ["cats", "dogs"]


def test_export_that_disagrees_fails_and_leaves_an_older_export_as_it_was(
    exported: Exported,
    trained: Path,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shutil.copytree(exported.out, tmp_path / "out")
    before = read_folder(out)
    monkeypatch.setattr("train_head.parity.TOLERANCE", -1.0)
    with pytest.raises(CommandFailed) as caught:
        export(ExportConfig(trained, out), quiet)
    assert caught.value.result["files"] == []
    assert caught.value.result["parity"]["keras"] == exported.result["parity"]["keras"]
    assert read_folder(out) == before
    assert "warning: the exported model differs from backbone and head by" in capsys.readouterr().err


def test_export_with_an_edited_validation_picture_names_it_and_writes_nothing(
    trained: Path, pictures: Path, tmp_path: Path, quiet: Console
) -> None:
    edited = pictures / "validation/dogs/103.jpg"
    edited.write_bytes(encode(draw_picture("dogs", 999), "JPEG"))
    out = tmp_path / "out"
    with pytest.raises(
        HeadstartError, match=rf"{edited}: expected the picture that its feature was made from, got a changed"
    ):
        export(ExportConfig(trained, out, images=str(pictures)), quiet)
    assert read_folder(out) == {}


def test_export_after_the_pictures_changed_and_were_extracted_again_says_what_changed(
    run: Path, store: Path, pictures: Path, tmp_path: Path, quiet: Console
) -> None:
    (pictures / "train/cats/004.jpg").unlink()
    fill_folder(pictures, {"train/dogs": 1}, start=50)
    result = extract_features(ExtractConfig(pictures, store, weights="random", image_size=75), quiet)
    assert (result.computed, result.removed, result.failed) == (1, 1, [])
    out = tmp_path / "out"
    with pytest.raises(HeadstartError) as caught:
        export(ExportConfig(run, out, store=str(store)), quiet)
    assert str(caught.value) == (
        f"{run}: expected the store as it was when the run was fitted, got 1 examples gone or changed, "
        "1 new or changed (such as train/cats/004.jpg, train/dogs/050.jpg). Train again, then export."
    )
    assert not out.exists()


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
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(values | {"store": str(tmp_path / "moved")}))
    with pytest.raises(HeadstartError, match=r"moved: expected a feature store"):
        export(ExportConfig(run, tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()
