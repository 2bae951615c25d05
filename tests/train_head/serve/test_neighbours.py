"""Nearest training pictures: their order, their thumbnails, and the runs that they come from."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import UsageError
from base.terminal import Console, ConsoleOptions
from tests.errors import raises
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.serve.servers import Client, make_model, make_training, start_server
from tests.train_head.synthetic import make_store
from tests.train_head.training import make_config
from train_head.export.config import Format
from train_head.export.open import ExportedModel
from train_head.runs.read import Run
from train_head.serve.config import ServeConfig
from train_head.serve.neighbours import NUM_NEAREST, TrainingPictures, load_training_pictures
from train_head.train import train_head

PATHS = [f"train/{label}/00{number}.jpg" for label in ("cats", "dogs", "owls") for number in range(4)]
QUIET = Console(ConsoleOptions(quiet=True))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    fill_folder(folder, {f"train/{label}": 4 for label in ("cats", "dogs", "owls")})
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def training(images: Path) -> TrainingPictures:
    return make_training(images, PATHS)


@pytest.fixture(scope="module")
def client(training: TrainingPictures) -> Iterator[Client]:
    with start_server(training=training) as found:
        yield found


def test_nearest_pictures_have_the_label_and_descend_in_similarity(client: Client) -> None:
    (found,) = client.predict(encode(draw_picture("owls", 5))).json["predictions"]
    nearest = found["nearest"]
    assert len(nearest) == NUM_NEAREST
    assert {near["label"] for near in nearest[:4]} == {"owls"}
    similarities = [near["similarity"] for near in nearest]
    assert similarities == sorted(similarities, reverse=True)
    assert 0.9 < similarities[0] <= 1 + 1e-6


def test_nearest_pictures_of_joined_features_use_the_last_channels(training: TrainingPictures) -> None:
    feature = np.array([40, 200, 60], np.float32)
    joined = np.concatenate([[9, 1, 5, 2], feature]).astype(np.float32)
    assert training.find_nearest(joined) == training.find_nearest(feature)


def test_thumbnail_is_a_small_jpeg(client: Client) -> None:
    (found,) = client.predict(encode(draw_picture("cats", 5))).json["predictions"]
    answer = client.send("GET", found["nearest"][0]["thumbnail"])
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    picture = Image.open(io.BytesIO(answer.body))
    assert (picture.format, picture.size) == ("JPEG", (90, 80))


@pytest.mark.parametrize(
    "name", ["12", "99999999999", "-1", "1.0", "%d9%a3", "..%2fsecret.txt", "../secret.txt", "0/..%2f1"]
)
def test_thumbnail_of_anything_but_a_training_picture_is_missing(client: Client, name: str) -> None:
    assert client.send("GET", f"/thumbnails/{name}").status == 404


def test_thumbnail_of_a_changed_or_deleted_file_is_missing(images: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(images, tmp_path / "images")
    with start_server(training=make_training(copy, PATHS)) as client:
        (copy / PATHS[0]).write_bytes((copy / PATHS[1]).read_bytes())
        (copy / PATHS[2]).unlink()
        (copy / PATHS[3]).unlink()
        (copy / PATHS[3]).symlink_to(copy / "secret.txt")
        assert [client.send("GET", f"/thumbnails/{number}").status for number in range(4)] == [404, 200, 404, 404]


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run on features of the pictures, of which the last of each class is for validation."""
    folder = tmp_path_factory.mktemp("run")
    paths = [path.replace("train/", "validation/") if path.endswith("3.jpg") else path for path in PATHS]
    contents = [hashlib.sha256((images / path).read_bytes()).digest() for path in PATHS]
    store = make_store(folder / "store", paths, contents=contents, images_folder=str(images))
    train_head(make_config(store, folder / "run"), QUIET)
    return Run(folder / "run")


def make_model_of(run: Run, /, **card: str) -> ExportedModel:
    model = make_model(**{"run": run.record.head, "fingerprint": run.record.fingerprint} | card)
    return replace(model, format=Format.KERAS)


def test_training_pictures_of_a_run_are_its_own(run: Run, images: Path) -> None:
    found = load_training_pictures(ServeConfig(Path("model.keras"), run.folder), make_model_of(run), QUIET)
    assert found is not None
    assert (len(found), found.has_files) == (9, True)
    nearest = found.find_nearest(np.array([0.2, 0.3, 1.2], np.float32))
    assert [near.label for near in nearest[:3]] == ["owls"] * 3
    assert all(near.path.startswith("train/") and (images / near.path).is_file() for near in nearest)
    assert found.render_thumbnail(nearest[0].number).startswith(b"\xff\xd8")


@pytest.mark.parametrize("name", ["run", "fingerprint"])
def test_training_pictures_of_another_run_are_refused(run: Run, name: str) -> None:
    with raises(UsageError, where="--run"):
        load_training_pictures(
            ServeConfig(Path("model.keras"), run.folder), make_model_of(run, **{name: "0" * 64}), QUIET
        )


def test_training_pictures_need_the_features_of_the_keras_format(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    model = replace(make_model_of(run), format=Format.ONNX)
    assert load_training_pictures(ServeConfig(Path("model.onnx"), run.folder), model, QUIET) is None
    assert capsys.readouterr().err.startswith("warning: ")


def test_labels_and_paths_that_are_not_utf8_are_escaped(images: Path) -> None:
    training = make_training(images, PATHS)
    model = make_model(classes=["cats", "caf\udce9", "<script>alert(1)</script>"])
    with start_server(model, training=training) as client:
        answer = client.predict(encode(draw_picture("dogs", 1)))
        assert json.loads(answer.body)["predictions"][0]["label"] == "caf\udce9"
        assert client.send("GET", "/model").json["classes"] == model.card.classes
