"""The quantised backbone that a store of int8 features keeps, an untrusted file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from features.maintenance.check import find_problems
from features.quantized import GRAPH_NAME, WEIGHTS_NAME, ModelDamagedError, QuantizedModel, read_model
from features.schema import BACKBONE_FOLDER
from features.store_writer import FeatureWriter
from tests.commands import run_command
from tests.errors import raises
from tests.features.stores import add_features, flip_byte, make_fingerprint, make_origin

pytestmark = pytest.mark.unit

MODEL = QuantizedModel(b"<net>layers</net>", b"weights")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Store of int8 features with its quantised backbone."""
    fingerprint = make_fingerprint(precision="int8", engine="openvino", calibration=MODEL.digest)
    with FeatureWriter(tmp_path / "store", fingerprint, make_origin()) as writer:
        writer.write_quantized(MODEL)
        add_features(writer, range(3))
    return tmp_path / "store"


def find(store: Path) -> list[str]:
    return [problem.where for problem in find_problems(store, read_data=False, images=None, advance=lambda _: None)]


def test_read_model_returns_what_was_written(store: Path) -> None:
    assert read_model(store, MODEL.digest) == MODEL
    assert find(store) == []


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_weights(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()


def damage(folder: Path) -> None:
    flip_byte(folder / WEIGHTS_NAME, 3)


def move_bytes(folder: Path) -> None:
    (folder / GRAPH_NAME).write_bytes(MODEL.graph + MODEL.weights[:1])
    (folder / WEIGHTS_NAME).write_bytes(MODEL.weights[1:])


def link(folder: Path) -> None:
    (folder / WEIGHTS_NAME).rename(folder.parent.parent / "elsewhere")
    (folder / WEIGHTS_NAME).symlink_to(folder.parent.parent / "elsewhere")


@pytest.mark.parametrize("change", [remove, remove_weights, damage, move_bytes, link])
def test_read_model_with_other_bytes_is_refused_and_written_again(store: Path, change: object) -> None:
    change(store / BACKBONE_FOLDER)  # type: ignore[operator]
    with raises(ModelDamagedError):
        read_model(store, MODEL.digest)
    assert find(store) == [str(store / BACKBONE_FOLDER)]
    assert run_command("features.__main__", "check", store).status == 1

    fingerprint = make_fingerprint(precision="int8", engine="openvino", calibration=MODEL.digest)
    with FeatureWriter(store, fingerprint, make_origin()) as writer:
        writer.write_quantized(MODEL)
    assert find(store) == []


def test_check_reports_foreign_files_beside_the_backbone(store: Path) -> None:
    (store / BACKBONE_FOLDER / "notes.txt").write_text("mine")
    assert find(store) == [str(store / BACKBONE_FOLDER / "notes.txt")]


def test_write_after_an_interrupted_write_removes_its_partial_file(store: Path) -> None:
    partial = store / BACKBONE_FOLDER / f".partial-{WEIGHTS_NAME}"
    partial.write_bytes(b"half")
    assert find(store) == []
    fingerprint = make_fingerprint(precision="int8", engine="openvino", calibration=MODEL.digest)
    with FeatureWriter(store, fingerprint, make_origin()) as writer:
        assert len(writer.notes) == 1
    assert not partial.exists()
