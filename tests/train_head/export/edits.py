"""Edited exports: what tests change in a model.keras, and how they have it refused."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest

from base.errors import HeadstartError
from train_head.export.load import load_export
from train_head.runs.card import CARD_NAME

Config = dict[str, Any]
Edit = Callable[[Config], object]
KERNEL = "layers/sequential/layers/dense/vars/0"


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def edit_json(source: Path, path: Path, edit: Edit, name: str = "config.json") -> Path:
    members = read_members(source)
    values = json.loads(members[name])
    edit(values)
    return write_members(path, members | {name: json.dumps(values).encode()})


def edit_weights(source: Path, path: Path, edit: Callable[[h5py.File], object]) -> Path:
    members = read_members(source)
    buffer = io.BytesIO(members["model.weights.h5"])
    with h5py.File(buffer, "r+") as file:
        edit(file)
    return write_members(path, members | {"model.weights.h5": buffer.getvalue()})


def remove_digest(source: Path, path: Path) -> Path:
    """Make an export one from before exports had a digest, in which any edit goes unnoticed."""

    def edit(card: Config) -> None:
        for name in ("digest", "weights_sha256", "run"):
            card.pop(name, None)

    return edit_json(source, path, edit, CARD_NAME)


def refuse(path: Path) -> HeadstartError:
    """Has a model refused, and returns the error."""
    with pytest.raises(HeadstartError) as caught:
        load_export(path)
    assert caught.value.where == path
    return caught.value
