"""An exported model on disk: an ordinary Keras file with a card in it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from base.errors import HeadstartError
from extract.decode import DECODE_POLICY, Pixels
from tests.train_head.made import CLASSES, FINGERPRINT, TINY_SIZE
from train_head.export.card import ModelCard
from train_head.export.model import ExportedModel, save_model
from train_head.export.model_file import read_card


def draw_images(*sizes: tuple[int, int]) -> list[Pixels]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in sizes]


def test_card_is_json_inside_the_keras_file_and_reads_back(tiny_three: Path) -> None:
    with zipfile.ZipFile(tiny_three) as archive:
        assert archive.testzip() is None
        assert {"config.json", "metadata.json", "model.weights.h5", "headstart.json"} == set(archive.namelist())
        assert json.loads(archive.read("headstart.json"))["classes"] == ["cats", "dogs", "owls"]
    card = read_card(tiny_three)
    assert replace(card, digest="") == ModelCard(
        CLASSES, TINY_SIZE, DECODE_POLICY, "pool", "none", FINGERPRINT.digest, 1.0
    )
    assert len(card.digest) == 64


def test_exported_model_predicts_each_picture_in_its_order_whatever_the_grouping(tiny_three: Path) -> None:
    model = ExportedModel(tiny_three)
    images = draw_images((16, 16), (16, 16), (20, 31), (16, 16), (1, 1), (64, 16), (64, 16), (64, 16))
    alone = [next(iter(model.predict([image], 1))) for image in images]
    assert len({outputs.tobytes() for outputs in alone}) == len(images)
    for batch_size in (1, 2, 32):
        together = list(model.predict(images, batch_size))
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_exported_model_gives_one_sigmoid_for_two_classes_and_a_softmax_for_three(
    tiny_two: Path, tiny_three: Path
) -> None:
    images = draw_images((16, 16), (9, 40))
    for outputs in ExportedModel(tiny_two).predict(images, 2):
        assert outputs.shape == (1,)
        assert outputs.dtype == np.float32
        assert 0 < outputs[0] < 1
    for outputs in ExportedModel(tiny_three).predict(images, 2):
        assert outputs.shape == (3,)
        assert outputs.sum() == pytest.approx(1, abs=1e-6)


def test_exported_model_of_no_pictures_predicts_nothing(tiny_two: Path) -> None:
    assert list(ExportedModel(tiny_two).predict([], 4)) == []


def test_exported_model_reads_pictures_only_as_it_needs_them(tiny_two: Path) -> None:
    taken = 0

    def give() -> list[Pixels]:
        nonlocal taken
        taken += 1
        return draw_images((16, 16))

    outputs = ExportedModel(tiny_two).predict((give()[0] for _ in range(100)), 4)
    next(iter(outputs))
    assert taken <= 5


@pytest.mark.parametrize(
    ("content", "got"),
    [(None, "got no such file"), (b"", "got another file"), (b"\x89HDF no zip", "got another file")],
)
def test_exported_model_from_another_file_is_refused_by_name(tmp_path: Path, content: bytes | None, got: str) -> None:
    path = tmp_path / "some.keras"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HeadstartError, match=rf"some\.keras: expected .*{got}"):
        ExportedModel(path)
    with pytest.raises(HeadstartError, match=rf"some\.keras: expected .*{got}"):
        read_card(path)


def test_exported_model_from_a_folder_or_a_plain_keras_file_is_refused(tmp_path: Path) -> None:
    import keras

    keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]).save(tmp_path / "plain.keras")
    with pytest.raises(HeadstartError, match=r"plain\.keras: expected a model\.keras that .*headstart\.json"):
        read_card(tmp_path / "plain.keras")
    with pytest.raises(HeadstartError, match="expected an exported model, got a folder"):
        read_card(tmp_path)


def test_exported_model_with_a_foreign_card_is_refused(tmp_path: Path, tiny_two: Path) -> None:
    with zipfile.ZipFile(tiny_two) as old, zipfile.ZipFile(tmp_path / "model.keras", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) if name != "headstart.json" else b'{"classes": ["cats"]}')
    with pytest.raises(HeadstartError, match=r"expected a model\.keras .*got another file .*missing"):
        read_card(tmp_path / "model.keras")


@pytest.mark.parametrize("classes", [5, ["a"], ["a", 1], None])
def test_card_without_two_class_names_is_refused(tmp_path: Path, tiny_two: Path, classes: object) -> None:
    with zipfile.ZipFile(tiny_two) as old, zipfile.ZipFile(tmp_path / "model.keras", "w") as new:
        for name in old.namelist():
            card = json.loads(old.read("headstart.json")) | {"classes": classes}
            new.writestr(name, old.read(name) if name != "headstart.json" else json.dumps(card))
    with pytest.raises(HeadstartError, match="a card without two class names"):
        read_card(tmp_path / "model.keras")


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_exported_model_that_is_cut_off_is_refused(tmp_path: Path, tiny_two: Path, share: float) -> None:
    data = tiny_two.read_bytes()
    (tmp_path / "model.keras").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(HeadstartError, match=r"expected a model\.keras .*got another file"):
        ExportedModel(tmp_path / "model.keras")


def test_exported_model_that_would_run_code_is_refused(tmp_path: Path, tiny_two: Path) -> None:
    import keras

    trap = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Lambda(lambda values: values * 2)])
    trap.save(tmp_path / "trap.keras")
    with zipfile.ZipFile(tmp_path / "trap.keras", "a") as archive, zipfile.ZipFile(tiny_two) as sound:
        archive.writestr("headstart.json", sound.read("headstart.json"))
    with pytest.raises(HeadstartError, match=r"trap\.keras: expected a model\.keras .*a part keras\.layers\.Lambda"):
        ExportedModel(tmp_path / "trap.keras")


def test_exported_model_with_a_layer_too_large_to_compute_is_refused_before_it_is(
    tmp_path: Path, tiny_two: Path
) -> None:
    pixels = keras.Input((None, None, 3))
    values = keras.layers.Resizing(TINY_SIZE, TINY_SIZE)(pixels)
    values = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(values)
    for _ in range(20):
        values = keras.layers.Concatenate(axis=3)([values, values])
    values = keras.layers.Conv2D(1, 1)(values)
    outputs = keras.layers.Dense(1, "sigmoid")(keras.layers.Flatten()(values))
    path = tmp_path / "model.keras"
    save_model(keras.Model(pixels, outputs), read_card(tiny_two), path)
    with pytest.raises(HeadstartError, match=r"concatenate\w* makes 402,653,184 numbers of a picture"):
        ExportedModel(path)
