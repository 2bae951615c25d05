"""`open_model`: every format, files that were edited or that belong to another export, and odd class names."""

from __future__ import annotations

import codecs
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import HeadstartError, UsageError
from tests.errors import raises
from tests.pictures import draw_picture
from tests.train_head.export.conftest import Exported
from tests.train_head.export.tiny import CONVERTED, ODD_CLASSES
from train_head.export.config import Format
from train_head.export.description import ModelDescription, encode_description
from train_head.export.formats import FORMATS
from train_head.export.open import open_model
from train_head.export.target import refuse_foreign_files

Odd = tuple[Path, ModelDescription]


@pytest.fixture
def folder(odd: Odd, tmp_path: Path) -> Path:
    """Copy of the export of a tiny model in all formats."""
    return shutil.copytree(odd[0], tmp_path / "export")


@pytest.mark.unit
@pytest.mark.parametrize("name", ["model", "model/model.keras"])
def test_open_model_that_is_missing_lists_the_models_beside_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "model-dropout0.5").mkdir()
    with raises(UsageError, where=tmp_path / name) as caught:
        open_model(tmp_path / name)
    assert "model-dropout0.5" not in caught.value.advice
    (tmp_path / "model-dropout0.5/model.json").touch()
    with raises(UsageError, where=tmp_path / name) as caught:
        open_model(tmp_path / name)
    assert str(tmp_path / "model-dropout0.5") in caught.value.advice


def parse_labels(data: bytes) -> list[str]:
    """Parse labels.txt as docs/how-to/export.md describes."""
    lines = data.decode().splitlines()
    return [codecs.decode(line.encode("latin-1", "backslashreplace"), "unicode_escape") for line in lines]


def read_keras(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "model.keras") as archive:
        return list(json.loads(archive.read("headstart.json"))["classes"])


def read_saved_model(folder: Path) -> list[str]:
    return parse_labels((folder / "saved_model" / "assets" / "labels.txt").read_bytes())


def read_litert(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "model.tflite") as archive:
        return parse_labels(archive.read("labels.txt"))


def read_onnx(folder: Path) -> list[str]:
    import onnxruntime

    metadata = onnxruntime.InferenceSession(folder / "model.onnx").get_modelmeta().custom_metadata_map
    return list(json.loads(metadata["labels"]))


def read_openvino(folder: Path) -> list[str]:
    import openvino

    model = openvino.Core().read_model(folder / "model.xml")
    return list(json.loads(model.get_rt_info(["headstart", "labels"]).astype(str)))


READERS: dict[Format, Callable[[Path], list[str]]] = {
    Format.KERAS: read_keras,
    Format.SAVED_MODEL: read_saved_model,
    Format.LITERT: read_litert,
    Format.ONNX: read_onnx,
    Format.OPENVINO: read_openvino,
}


@pytest.mark.parametrize("each", [Format.KERAS, *CONVERTED])
def test_odd_class_names_are_the_same_inside_and_beside_the_files(each: Format, odd: Odd) -> None:
    folder, _ = odd
    assert READERS[each](folder) == ODD_CLASSES
    assert parse_labels((folder / "labels.txt").read_bytes()) == ODD_CLASSES
    assert json.loads((folder / "model.json").read_bytes())["classes"] == ODD_CLASSES
    assert open_model(folder / FORMATS[each].path).card.classes == ODD_CLASSES


def test_model_without_a_batch_axis_in_its_input_fails_in_every_format(odd: Odd) -> None:
    folder, _ = odd
    pixels = np.asarray(Image.open(folder / "picture.jpg"), np.float32)
    for each in (Format.KERAS, *CONVERTED):
        run = open_model(folder / FORMATS[each].path).run
        with pytest.raises(Exception, match=r"(?i)rank|shape|dim"):
            run(pixels)
        assert run(pixels[None]).probabilities.shape == (1, 3)


@pytest.mark.parametrize("each", CONVERTED)
def test_open_model_refuses_a_file_that_was_changed(each: Format, folder: Path) -> None:
    path = folder / FORMATS[each].path
    changed = path / "saved_model.pb" if path.is_dir() else path
    changed.write_bytes(changed.read_bytes() + b" ")
    with raises(HeadstartError, where=changed):
        open_model(path)


def test_open_model_refuses_a_file_of_another_export(folder: Path, odd: Odd) -> None:
    other = replace(odd[1], files=odd[1].files | {"model.onnx": "0" * 64})
    (folder / "model.json").write_bytes(encode_description(other))
    with raises(HeadstartError, where=folder / "model.onnx"):
        open_model(folder / "model.onnx")


@pytest.mark.parametrize("each", CONVERTED)
def test_open_model_without_a_description_needs_the_keras_format(each: Format, folder: Path) -> None:
    (folder / "model.json").unlink()
    with raises(HeadstartError, where=folder / "model.json"):
        open_model(folder / FORMATS[each].path)
    assert open_model(folder / "model.keras").card.classes == ODD_CLASSES


def test_open_model_refuses_edited_class_names_in_the_description(folder: Path) -> None:
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace("blue", "grey"))
    for name in ("model.onnx", "model.keras"):
        with raises(HeadstartError, where=folder / "model.json"):
            open_model(folder / name)


def test_open_model_does_not_read_labels_txt(folder: Path) -> None:
    (folder / "labels.txt").write_text("edited\n")
    assert open_model(folder / "model.onnx").card.classes == ODD_CLASSES


def test_open_model_follows_links_as_in_the_cache_of_the_hub(folder: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for name in ("model.onnx", "model.json"):
        (links / name).symlink_to(folder / name)
    assert open_model(links).format is Format.ONNX


def test_open_model_without_the_runtime_of_its_format_names_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base.errors.find_spec", lambda name: None)
    with raises(UsageError, where=folder / "model.onnx"):
        open_model(folder / "model.onnx")


def test_open_model_of_a_renamed_file_is_a_usage_error(folder: Path) -> None:
    renamed = (folder / "model.onnx").rename(folder / "other.onnx")
    with raises(UsageError, where=renamed):
        open_model(renamed)


@pytest.mark.parametrize("name", ["web", "saved_model"])
def test_open_model_opens_an_export_in_a_folder_with_the_name_of_a_format(name: str, folder: Path) -> None:
    moved = folder.rename(folder.with_name(name))
    assert open_model(moved).path == moved / "model.keras"


def test_open_model_does_not_use_the_description_of_another_model(folder: Path, exported: Exported) -> None:
    assert open_model(folder / "model.keras").description is not None
    assert open_model(exported.model).description is not None
    shutil.copyfile(exported.model, folder / "model.keras")
    assert open_model(folder / "model.keras").description is None


def test_open_model_without_an_exported_model_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "model.pdf").touch()
    for path in (tmp_path, tmp_path / "model.pdf", tmp_path / "missing.onnx"):
        with raises(UsageError, where=path):
            open_model(path)


def test_export_over_empty_folders_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "saved_model/variables").mkdir(parents=True)
    refuse_foreign_files(tmp_path)


@pytest.mark.parametrize("name", ["labels.txt", "README.md", "model.json", "model.onnx", "saved_model/saved_model.pb"])
def test_export_over_an_edited_file_is_refused(name: str, folder: Path) -> None:
    (folder / "picture.jpg").unlink()
    refuse_foreign_files(folder)
    (folder / name).write_bytes(b"edited")
    with raises(HeadstartError, where=folder / name):
        refuse_foreign_files(folder)


def test_common_mistakes_change_the_result_without_an_error(odd: Odd) -> None:
    run = open_model(odd[0] / "model.onnx").run
    pictures = [np.asarray(draw_picture(label, 2), np.float32)[None] for label in ("cats", "dogs", "owls")]
    black = run(np.zeros_like(pictures[0])).probabilities
    for number, pixels in enumerate(pictures):
        assert run(pixels).probabilities.argmax() == number
        assert run(pixels[..., ::-1]).probabilities.argmax() == [1, 0, 2][number]
        assert np.abs(run(pixels / np.float32(255)).probabilities - black).max() < 0.05
