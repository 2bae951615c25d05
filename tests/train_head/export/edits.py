"""Read, write and edit the members of a model.keras."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from base.errors import HeadstartError
from tests.errors import raises
from tests.train_head.synthetic import make_small_card
from train_head.export.load import WEIGHTS_NAME, load_export
from train_head.runs.card import CARD_NAME

Config = dict[str, Any]
Edit = Callable[[Config], object]
EditWeights = Callable[[h5py.File], object]
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


def edit_weights(source: Path, path: Path, edit: EditWeights) -> Path:
    members = read_members(source)
    buffer = io.BytesIO(members[WEIGHTS_NAME])
    with h5py.File(buffer, "r+") as file:
        edit(file)
    return write_members(path, members | {WEIGHTS_NAME: buffer.getvalue()})


def remove_digest(source: Path, path: Path) -> Path:
    """Convert an export to the format of earlier versions, which had no digest: edits of it are not detected."""

    def edit(card: Config) -> None:
        for name in ("digest", "weights_sha256", "run"):
            card.pop(name, None)

    return edit_json(source, path, edit, CARD_NAME)


def write_bare_export(path: Path) -> Path:
    """Write a file that `read_export` accepts: a card, a digest and one array, without the layers of a model."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file[KERNEL] = np.arange(96, dtype=np.float32).reshape(32, 3)
        file["layers/sequential/layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    members = {"metadata.json": b"{}", "config.json": b'{"name": "headstart"}', WEIGHTS_NAME: buffer.getvalue()}
    card = make_small_card(2)
    card = replace(card, digest=card.compute_digest(members))
    return write_members(path, members | {CARD_NAME: json.dumps(asdict(card)).encode()})


def assert_refused(path: Path, load: Callable[[Path], object] = load_export) -> HeadstartError:
    """Assert that an export is refused with its path, and return the error."""
    with raises(HeadstartError, where=path) as caught:
        load(path)
    return caught.value
