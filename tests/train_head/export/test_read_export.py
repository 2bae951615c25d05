"""`read_export`: card and arrays of a valid file; damaged and edited files are refused."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.train_head.export.edits import (
    KERNEL,
    Config,
    EditWeights,
    assert_refused,
    edit_json,
    edit_weights,
    read_members,
    remove_digest,
    write_bare_export,
    write_members,
)
from tests.train_head.synthetic import make_small_card
from train_head.export.load import WEIGHTS_NAME, read_export
from train_head.runs.card import CARD_NAME, read_card

pytestmark = pytest.mark.unit
MAX_BYTES = 2**22
"""Memory that may be used to refuse a file of a few kB."""


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small valid file with a digest, not to be changed."""
    return write_bare_export(tmp_path_factory.mktemp("bare") / "model.keras")


@pytest.fixture(scope="session")
def older(bare: Path) -> Path:
    """Copy of `bare` without its digest, not to be changed."""
    return remove_digest(bare, bare.with_name("older.keras"))


def test_read_export_returns_card_and_arrays_without_random_states(bare: Path) -> None:
    card, arrays = read_export(bare)
    assert card.classes == ["cats", "dogs"]
    assert len(card.digest) == 64
    assert list(arrays) == [KERNEL]
    np.testing.assert_array_equal(arrays[KERNEL], np.arange(96, dtype=np.float32).reshape(32, 3))


def test_read_export_without_digest_is_accepted(older: Path) -> None:
    card, arrays = read_export(older)
    assert card == read_card(older) == make_small_card(2)
    assert list(arrays) == [KERNEL]


def test_read_export_repacked_under_another_name_is_accepted(bare: Path, tmp_path: Path) -> None:
    assert read_export(write_members(tmp_path / "any name", read_members(bare)))[0] == read_card(bare)


def test_read_export_with_members_larger_than_the_file_is_refused(older: Path, tmp_path: Path) -> None:
    members = read_members(older) | {"bomb": bytes(10**5)}
    read_export(write_members(tmp_path / "stored.keras", members))
    assert_refused(write_members(tmp_path / "deflated.keras", members, zipfile.ZIP_DEFLATED), read_export)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (CARD_NAME, lambda c: c.update(classes=c["classes"][::-1])),
        (CARD_NAME, lambda c: c.update(val_accuracy=0.9)),
        (CARD_NAME, lambda c: c.pop("digest") and c.update(weights_sha256="0" * 64)),
        ("config.json", lambda c: c.update(name="other")),
        ("metadata.json", lambda c: c.update(date_saved="2026-01-01")),
    ],
)
def test_read_export_edited_json_is_refused(
    bare: Path, tmp_path: Path, name: str, edit: Callable[[Config], object]
) -> None:
    assert "digest" in assert_refused(edit_json(bare, tmp_path / "model.keras", edit, name), read_export).got


def test_read_export_edited_array_is_refused(bare: Path, tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file[KERNEL][0, 0] = 50

    assert "digest" in assert_refused(edit_weights(bare, tmp_path / "model.keras", edit), read_export).got


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "assets/../../evil", "evil.tar"])
def test_read_export_added_member_is_refused_and_not_extracted(bare: Path, tmp_path: Path, name: str) -> None:
    path = write_members(tmp_path / "model.keras", read_members(bare) | {name: b"payload"})
    assert "digest" in assert_refused(path, read_export).got
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [CARD_NAME, WEIGHTS_NAME])
def test_read_export_without_card_or_weights_is_refused(older: Path, tmp_path: Path, name: str) -> None:
    members = read_members(older)
    del members[name]
    assert name in assert_refused(write_members(tmp_path / "model.keras", members), read_export).got


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["one"]},
        {"classes": ["cats", "cats"]},
        {"classes": ["cats", 1]},
        {"classes": 5},
        {"image_size": 0},
        {"image_size": 10**6},
        {"image_size": True},
        {"cut": 3},
        {"val_accuracy": 1.5},
        {"val_accuracy": -0.1},
        {"val_accuracy": float("nan")},
        {"val_accuracy": True},
        {"decode_policy": 7},
        {"payload": 1},
    ],
    ids=str,
)
def test_read_export_invalid_card_is_refused(older: Path, tmp_path: Path, change: Config) -> None:
    assert_refused(edit_json(older, tmp_path / "model.keras", lambda card: card.update(change), CARD_NAME), read_export)


def declare(**options: Any) -> EditWeights:
    """Replace the kernel by a dataset with these options."""

    def edit(file: h5py.File) -> None:
        del file[KERNEL]
        file.create_dataset(KERNEL, **options)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        declare(shape=(10**5, 10**4), dtype="f4"),
        declare(shape=(10**9,), dtype="f4", chunks=(10**6,), compression="gzip"),
        declare(data=np.zeros(10**7, "u1"), compression="gzip"),
    ],
    ids=["nothing stored", "no chunk stored", "compressed zeros"],
)
def test_read_export_declaring_more_than_it_stores_is_refused_without_allocation(
    older: Path, tmp_path: Path, edit: EditWeights
) -> None:
    path = edit_weights(older, tmp_path / "model.keras", edit)
    tracemalloc.start()
    try:
        assert_refused(path, read_export)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
