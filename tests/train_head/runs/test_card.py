"""Card of an exported model, and the file of its labels."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError
from extract.backbone import MAX_IMAGE_SIZE
from tests.errors import raises
from tests.train_head.synthetic import make_small_card
from train_head.runs.card import CARD_NAME, format_labels, open_export, read_card

pytestmark = pytest.mark.unit


def write_export(path: Path, values: object, **members: bytes) -> Path:
    """Write an exported model with a card and other members, but without weights."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CARD_NAME, json.dumps(values))
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_read_card_returns_the_written_card(tmp_path: Path) -> None:
    card = make_small_card(3)
    assert read_card(write_export(tmp_path / "model.keras", asdict(card))) == card


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["cats"]},
        {"classes": ["cats", "cats"]},
        {"classes": ["cats", 5]},
        {"classes": "cats"},
        {"image_size": 0},
        {"image_size": MAX_IMAGE_SIZE + 1},
        {"image_size": 75.0},
        {"image_size": True},
        {"val_accuracy": -0.1},
        {"val_accuracy": 1.1},
        {"val_accuracy": None},
        {"val_accuracy": float("nan")},
        {"cut": None},
        {"digest": 5},
        {"unknown": 1},
    ],
    ids=str,
)
def test_read_card_with_an_invalid_value_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_export(tmp_path / "model.keras", asdict(make_small_card(2)) | change)
    with raises(HeadstartError, where=path):
        read_card(path)


@pytest.mark.parametrize(("name", "value"), [("image_size", MAX_IMAGE_SIZE), ("image_size", 1), ("val_accuracy", 0)])
def test_read_card_with_a_value_at_its_limit_is_accepted(tmp_path: Path, name: str, value: int) -> None:
    card = read_card(write_export(tmp_path / "model.keras", asdict(make_small_card(2)) | {name: value}))
    assert getattr(card, name) == value


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"text"])
def test_read_card_of_another_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.keras"
    if content is not None:
        path.write_bytes(content)
    with raises(HeadstartError, where=path):
        read_card(path)


def test_read_card_without_a_card_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with raises(HeadstartError, where=path):
        read_card(path)


@pytest.mark.parametrize(("constant", "what"), [("MAX_MODEL_BYTES", "file"), ("MAX_CARD_BYTES", "card")])
def test_read_card_of_a_large_file_or_card_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, what: str
) -> None:
    path = write_export(tmp_path / "model.keras", asdict(make_small_card(2)))
    monkeypatch.setattr(f"train_head.runs.card.{constant}", 100)
    with raises(HeadstartError, where=path) as caught:
        read_card(path)
    assert caught.value.got.startswith(f"a {what} of ")


def test_read_card_with_members_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CARD_NAME, json.dumps(asdict(make_small_card(2))))
        archive.writestr("bomb", bytes(10**6))
    with raises(HeadstartError, where=path):
        read_card(path)


def test_open_export_yields_the_archive_and_converts_exceptions(tmp_path: Path) -> None:
    path = write_export(tmp_path / "model.keras", asdict(make_small_card(2)), weights=b"w")
    with open_export(path) as (card, archive):
        assert (card.classes, archive.read("weights")) == (["cats", "dogs"], b"w")
    with raises(HeadstartError, where=path) as caught, open_export(path):
        raise OSError("no such array")
    assert "no such array" in caught.value.got


def test_compute_digest_depends_on_the_card_and_all_members() -> None:
    card, members = make_small_card(2), {"a": b"1", "b": b"2"}
    digest = card.compute_digest(members)
    assert digest == replace(card, digest="x").compute_digest(dict(reversed(members.items())))
    others = [
        replace(card, cut="other").compute_digest(members),
        card.compute_digest({"a": b"1"}),
        card.compute_digest({"a": b"2", "b": b"1"}),
        card.compute_digest({"a": b"12", "b": b""}),
        card.compute_digest({"a": b"1", "c": b"2"}),
    ]
    assert len({digest, *others}) == 6


@pytest.mark.parametrize(
    ("label", "line"),
    [
        ("cats", "cats"),
        ("Größe 日本", "Größe 日本"),
        ("a\\n", "a\\\\n"),
        ("a\nb", "a\\nb"),
        ("a\x85b", "a\\x85b"),
        ("a\u2028b", "a\\u2028b"),
        ("caf\udce9", "caf\\udce9"),
        ("a b", "a b"),
    ],
)
def test_format_labels_writes_one_escaped_name_per_line(label: str, line: str) -> None:
    assert format_labels([label, "dogs"]) == f"{line}\ndogs\n".encode()
