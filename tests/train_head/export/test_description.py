"""model.json: what an export writes into it, and which files are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError
from base.files import hash_file
from tests.errors import raises
from tests.train_head.export.conftest import Exported
from tests.train_head.synthetic import make_small_card
from train_head.export.config import Format
from train_head.export.description import (
    DIGEST_LENGTH,
    ModelDescription,
    encode_description,
    parse_description,
    read_description,
)
from train_head.runs.read import Run

DESCRIPTION = ModelDescription(
    replace(make_small_card(2), outlier_threshold=3.5),
    training=["0" * DIGEST_LENGTH],
    formats={"keras": "float32", "onnx": "int8"},
    files={"model.keras": "1" * 64},
    versions={"python": "3.11"},
    temperature=0.75,
)
ODD_NAMES = [
    "a, b",
    "\N{CAT FACE}",
    'quote " and \\',
    "new\nline",
    "\u5341",
    "\u0642\u0637\u0629",
    "\udce9",
    "</script>",
]


def test_export_writes_a_description_of_its_files(exported: Exported, early_run: Path) -> None:
    values = json.loads((exported.out / "model.json").read_bytes())
    run = Run(early_run)
    assert values["classes"] == ["cats", "dogs"]
    assert values["input"]["resize"] == {
        "size": 75,
        "method": "bilinear",
        "antialias": False,
        "keeps_proportions": False,
    }
    assert values["formats"] == {"keras": "float32"}
    assert values["outputs"] == {"keras": {"probability": [None, 1]}}
    assert values["fingerprints"]["head"] == run.record.head
    assert values["fingerprints"]["store"] == run.record.fingerprint
    assert values["outlier_threshold"] == values["card"]["outlier_threshold"] > 0
    assert values["temperature"] == run.record.temperature
    assert {"python", "headstart", "keras", "tensorflow", "numpy"} <= values["versions"].keys()
    names = {path.name for path in exported.out.iterdir()} - {"model.json"}
    assert values["files"] == {name: hash_file(exported.out / name) for name in names}
    hashes = [example.content_hash for example in run.read_examples() if example.split == "train"]
    assert values["training"] == sorted({digest[:DIGEST_LENGTH] for digest in hashes})


def test_export_writes_no_path_of_this_machine(exported: Exported) -> None:
    for path in exported.out.iterdir():
        if path.suffix != ".keras":
            assert str(exported.out.parent) not in path.read_text(), path


@pytest.mark.unit
def test_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    described = replace(DESCRIPTION, card=replace(DESCRIPTION.card, classes=ODD_NAMES))
    (tmp_path / "model.json").write_bytes(encode_description(described))
    assert read_description(tmp_path / "model.json") == described
    assert json.loads((tmp_path / "model.json").read_bytes())["classes"] == ODD_NAMES


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changed", "each", "expected"),
    [
        ({}, Format.ONNX, {"probability": [None, 2], "distance": [None, 1]}),
        ({}, Format.KERAS, {"probability": [None, 1]}),
        ({"has_distance": True}, Format.KERAS, {"probability": [None, 1], "distance": [None, 1]}),
        ({"card": make_small_card(3)}, Format.KERAS, {"probability": [None, 3]}),
        ({"card": make_small_card(3)}, Format.ONNX, {"probability": [None, 3]}),
    ],
)
def test_list_outputs_returns_the_shapes_of_each_format(
    changed: dict[str, Any], each: Format, expected: dict[str, list[int | None]]
) -> None:
    assert replace(DESCRIPTION, **changed).list_outputs(each) == expected


@pytest.mark.unit
@pytest.mark.parametrize(
    "change",
    [
        lambda values: values | {"classes": ["dogs", "cats"]},
        lambda values: values | {"outlier_threshold": 1e9},
        lambda values: values | {"added": 1},
        lambda values: {name: value for name, value in values.items() if name != "digest"},
        lambda values: {name: value for name, value in values.items() if name != "version"},
        lambda values: values | {"version": 2},
        lambda values: values | {"version": True},
        lambda values: [values],
    ],
)
def test_read_description_refuses_an_edited_file(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(change(DESCRIPTION.to_json())))
    with raises(HeadstartError, where=path):
        read_description(path)


@pytest.mark.unit
@pytest.mark.parametrize("data", [b"", b"{", b"<html>", b"null", b"[" * 100_000, b"\xff\xfe", b'{"version": 1}'])
def test_read_description_refuses_files_of_another_kind(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(data)
    with raises(HeadstartError, where=path):
        read_description(path)


@pytest.mark.unit
def test_read_description_refuses_a_huge_file_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with raises(HeadstartError, where=path):
        read_description(path)


@pytest.mark.unit
def test_parse_description_of_values_of_a_wrong_type_raises() -> None:
    values = DESCRIPTION.to_json() | {"training": [1]}
    described = replace(DESCRIPTION, training=values["training"])
    with pytest.raises(ValueError, match="training"):
        parse_description(encode_description(described))
