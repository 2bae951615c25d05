"""What is looked at in a model file before Keras does: its members, its card, its parts, and how much it declares."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import keras
import numpy as np
import pytest

from base.errors import HeadstartError
from extract.backbone import build_backbone, cut_backbone
from extract.decode import DECODE_POLICY
from features.schema import Pool
from tests.train_head.made import CLASSES, FINGERPRINT, TINY_SHAPE, TINY_SIZE, build_tiny_backbone
from train_head.export.card import CARD_NAME, ModelCard
from train_head.export.model import ExportedModel, save_model
from train_head.export.model_file import (
    FILES,
    MAX_LAYERS,
    MAX_MODEL_BYTES,
    MAX_TEXT_BYTES,
    OBJECTS,
    check_model,
    read_card,
)
from train_head.export.stitch import stitch
from train_head.solvers.head import build_head

Config = dict[str, Any]
Edit = Callable[[Config], object]


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


def add_layer(config: Config, kind: str, options: Config, inputs: object = None, **more: object) -> Config:
    """Adds a layer that no output needs; Keras builds it all the same, and calls it with `inputs`."""
    nodes = [] if inputs is None else [{"args": [], "kwargs": {"inputs": inputs}}]
    part = {
        "module": "keras.layers",
        "class_name": kind,
        "registered_name": None,
        "config": {"name": "dead", **options},
    }
    layer = {**part, "name": "dead", "inbound_nodes": nodes, **more}
    config["config"]["layers"].append(layer)
    return layer


def hidden_layer(config: Config) -> Config:
    layer: Config = config["config"]["layers"][-1]["config"]["layers"][2]
    assert layer["config"]["name"] == "hidden"
    return layer


def find_layer(config: Config, kind: str) -> Config:
    """Find the options of the first layer of a kind."""
    found: list[Config] = []
    pending: list[Any] = [config]
    while pending:
        part = pending.pop(0)
        if isinstance(part, dict):
            if part.get("class_name") == kind:
                found.append(part["config"])
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return found[0]


def refuse(path: Path, reason: str) -> None:
    """Has a model refused for a reason, before Keras is asked to load anything."""
    with mock.patch.object(keras.saving, "load_model") as load_model:
        for open_model in (check_model, ExportedModel):
            with pytest.raises(HeadstartError) as caught:
                open_model(path)
            expected = f"{path}: expected a model.keras that `train_head.export` made, got another file ("
            assert str(caught.value).startswith(expected)
            assert reason in str(caught.value)
    load_model.assert_not_called()


def save_export(path: Path, backbone: Any, head: Any, image_size: int = TINY_SIZE, num_classes: int = 2) -> ModelCard:
    classes = [f"class {number}" for number in range(num_classes)]
    card = ModelCard(classes, image_size, DECODE_POLICY, "cut", "none", FINGERPRINT.digest, 0.5)
    return save_model(stitch(backbone, head, image_size), card, path)


def list_parts(path: Path) -> list[tuple[Config, tuple[str | None, str]]]:
    """Every object that a model's configuration names, with its module and class."""
    found: list[Config] = []
    json.loads(read_members(path)["config.json"], object_hook=lambda part: found.append(part) or part)  # type: ignore[func-returns-value]
    return [(part, (part.get("module"), part["class_name"])) for part in found if "class_name" in part]


def test_check_model_of_exports_passes_and_gives_their_cards(tiny_two: Path, tiny_three: Path) -> None:
    for path, num_classes in ((tiny_two, 2), (tiny_three, 3)):
        assert check_model(path) == read_card(path)
        assert check_model(path).classes == CLASSES[:num_classes]


def test_check_model_of_an_export_that_was_packed_again_passes(tiny_two: Path, tmp_path: Path) -> None:
    path = write_members(tmp_path / "model.keras", read_members(tiny_two))
    assert check_model(path) == read_card(tiny_two)
    ExportedModel(path)


@pytest.mark.parametrize(
    ("num_classes", "units", "dropout", "l2"), [(2, 1, 0.0, 0.0), (2, 16, 0.5, 1e-4), (3, 4, 0.2, 0.1), (40, 8, 0.9, 0)]
)
def test_check_model_of_exports_of_other_heads_passes(
    tmp_path: Path, num_classes: int, units: int, dropout: float, l2: float
) -> None:
    head = build_head(TINY_SHAPE, num_classes, units, dropout, seed=3, l2=l2)
    card = save_export(tmp_path / "model.keras", build_tiny_backbone(), head, num_classes=num_classes)
    assert check_model(tmp_path / "model.keras") == card


def test_check_model_of_inception_exports_passes_and_allows_no_more_than_they_hold(tmp_path: Path) -> None:
    whole = build_backbone(75, None)
    found: dict[tuple[str | None, str], set[str]] = {}
    for number, (cut, pool, l2) in enumerate([("mixed10", Pool.AVG, 0.0), ("mixed2", Pool.NONE, 1e-4)]):
        backbone = cut_backbone(whole, cut, pool)
        path = tmp_path / f"{number}.keras"
        card = save_export(path, backbone, build_head(backbone.output.shape[1:], 2, 4, 0.5, l2=l2), 75)
        assert check_model(path) == card
        parts = list_parts(path)
        for part, kind in parts:
            found.setdefault(kind, set()).update(part["config"])
        policies = {part["config"]["name"] for part, (_, kind) in parts if kind == "DTypePolicy"}
        assert policies == {"float32"}
    assert found == {kind: set(options) for kind, options in OBJECTS.items()}


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "assets/../../evil", "assets/", "model.weights.npz", "x"])
def test_check_model_with_another_member_is_refused(tiny_two: Path, tmp_path: Path, name: str) -> None:
    path = write_members(tmp_path / "model.keras", read_members(tiny_two) | {name: b"payload"})
    refuse(path, "a zip file of 'metadata.json', 'config.json', 'model.weights.h5', 'headstart.json', ")
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_check_model_without_doubled_or_compressed_members_is_refused(
    tiny_two: Path, tmp_path: Path, name: str
) -> None:
    members = read_members(tiny_two)
    path = write_members(tmp_path / "model.keras", members)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(name, members[name])
    refuse(path, "a zip file of 'metadata.json', 'config.json'")
    write_members(path, {other: data for other, data in members.items() if other != name})
    refuse(path, f"a zip file without {name}")
    write_members(path, members)
    with zipfile.ZipFile(path, "w") as archive:
        for other, data in members.items():
            archive.writestr(other, data, zipfile.ZIP_DEFLATED if other == name else zipfile.ZIP_STORED)
    refuse(path, f"{name} is compressed")


@pytest.mark.parametrize("name", sorted(FILES - {"model.weights.h5"}))
def test_check_model_with_a_long_text_is_refused(tiny_two: Path, tmp_path: Path, name: str) -> None:
    members = read_members(tiny_two)
    members[name] += b" " * (MAX_TEXT_BYTES + 1 - len(members[name]))
    refuse(write_members(tmp_path / "model.keras", members), f"{name} has {MAX_TEXT_BYTES + 1:,} bytes")


def test_check_model_with_members_that_overlap_is_refused(tiny_two: Path, tmp_path: Path) -> None:
    path = write_members(tmp_path / "model.keras", read_members(tiny_two))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"written anew"
        weights = archive.getinfo("model.weights.h5")
        weights.file_size = weights.compress_size = 10**9
    refuse(path, "files that overlap")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": ["one"]}, "a card without two class names"),
        ({"image_size": 10**6}, "a card with pictures of 1000000 px"),
        ({"image_size": True}, "a card with pictures of True px"),
        ({"image_size": 75}, "pictures of another size than 75 px"),
        ({"payload": 1}, "unexpected keyword argument 'payload'"),
    ],
)
def test_check_model_with_another_card_is_refused(tiny_two: Path, tmp_path: Path, change: Config, reason: str) -> None:
    refuse(edit_json(tiny_two, tmp_path / "model.keras", lambda card: card.update(change), "headstart.json"), reason)


def test_exported_model_with_more_outputs_than_its_card_has_classes_is_refused(
    tiny_three: Path, tmp_path: Path
) -> None:
    path = edit_json(tiny_three, tmp_path / "m.keras", lambda card: card.update(classes=["a", "b"]), "headstart.json")
    with pytest.raises(HeadstartError):
        ExportedModel(path)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c.update(class_name="Model"), "a part keras.src.models.functional.Model, which no export has"),
        (lambda c: c.update(registered_name="mine>Functional"), "a part keras.src.models.functional.Functional"),
        (lambda c: c.update(config=[]), "a part Functional without options"),
        (lambda c: hidden_layer(c).pop("module"), "a part None.Dense, which no export has"),
        (lambda c: hidden_layer(c).update(module="keras.src.layers.core.dense"), "a part keras.src.layers.core.dense."),
        (lambda c: hidden_layer(c).update(class_name=["Dense"]), "unhashable type"),
        (lambda c: hidden_layer(c)["config"].update(activation="mish"), "an activation 'mish'"),
        (lambda c: hidden_layer(c)["config"].update(activation=None), "an activation None"),
        (lambda c: hidden_layer(c)["config"].update(units="3"), "a Dense of [48, '3']"),
        (lambda c: hidden_layer(c)["config"].update(units=-3), "a Dense of [48, -3]"),
        (lambda c: hidden_layer(c)["config"].update(units=True), "a Dense of [48, True]"),
        (lambda c: hidden_layer(c).pop("build_config"), ""),
        (lambda c: c["config"]["layers"][1]["config"].update(height=10**6), "pictures of another size than 16 px"),
        (
            lambda c: [add_layer(c, "Flatten", {}) for _ in range(MAX_LAYERS)],
            "2,010 layers with 588 bytes of weights, and ",
        ),
    ],
)
def test_check_model_with_parts_that_no_export_has_is_refused(
    tiny_two: Path, tmp_path: Path, edit: Edit, reason: str
) -> None:
    refuse(edit_json(tiny_two, tmp_path / "model.keras", edit), reason)


def test_check_model_with_other_numbers_in_its_weights_is_refused(tiny_two: Path, tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["layers/sequential/layers/dense_1/vars/1"][...] = 50

    refuse(edit_weights(tiny_two, tmp_path / "model.keras", edit), "its digest is another")


def test_check_model_of_an_older_export_without_a_digest_passes(tiny_two: Path, tmp_path: Path) -> None:
    path = edit_json(tiny_two, tmp_path / "model.keras", make_older, CARD_NAME)
    assert check_model(path) == replace(read_card(tiny_two), digest="")
    path = edit_json(path, tmp_path / "again.keras", lambda _: None)
    assert next(ExportedModel(path).predict([np.zeros((16, 16, 3), np.uint8)], 1)) == pytest.approx(0.5, abs=0.5)


def make_older(card: Config) -> None:
    """Take out of a card what exports before the digest do not have."""
    del card["digest"], card["weights_sha256"]


@pytest.mark.parametrize("is_older", [False, True], ids=["digest", "older"])
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (CARD_NAME, lambda c: c.update(classes=["cats", "cats"])),
        (CARD_NAME, lambda c: c.update(val_accuracy=1.5)),
        (CARD_NAME, lambda c: c.update(val_accuracy=float("nan"))),
        (CARD_NAME, lambda c: c.update(val_accuracy=True)),
        (CARD_NAME, lambda c: c.update(decode_policy=7)),
        ("config.json", lambda c: find_layer(c, "Rescaling").update(scale=1 / 255)),
        ("config.json", lambda c: find_layer(c, "Rescaling").update(offset=0.0)),
        ("config.json", lambda c: find_layer(c, "Resizing").update(interpolation="nearest")),
        ("config.json", lambda c: find_layer(c, "Resizing").update(antialias=True)),
        ("config.json", lambda c: find_layer(c, "Resizing").update(crop_to_aspect_ratio=True)),
        ("config.json", lambda c: add_layer(c, "Rescaling", {"scale": 1 / 127.5, "offset": -1.0})),
        ("config.json", lambda c: find_layer(c, "Dropout").update(rate=1.0)),
    ],
)
def test_check_model_with_numbers_that_no_export_has_is_refused(
    tiny_two: Path, tmp_path: Path, is_older: bool, name: str, edit: Edit
) -> None:
    path = tmp_path / "model.keras"
    if is_older:
        tiny_two = edit_json(tiny_two, tmp_path / "older.keras", make_older, CARD_NAME)
        check_model(tiny_two)
    refuse(edit_json(tiny_two, path, edit, name), "")


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (CARD_NAME, lambda c: c.update(classes=c["classes"][::-1])),
        (CARD_NAME, lambda c: c.update(val_accuracy=0.9)),
        (CARD_NAME, lambda c: c.pop("digest") and c.update(weights_sha256="0" * 64)),
        ("config.json", lambda c: find_layer(c, "Dense").update(activation="linear")),
        ("config.json", lambda c: find_layer(c, "Dropout").update(rate=0.9)),
        ("metadata.json", lambda c: c.update(date_saved="2026-01-01")),
    ],
)
def test_check_model_edited_after_the_export_is_refused(tiny_two: Path, tmp_path: Path, name: str, edit: Edit) -> None:
    refuse(edit_json(tiny_two, tmp_path / "model.keras", edit, name), "its digest is another")


def test_check_model_with_far_more_weights_than_its_layers_have_is_refused(tiny_two: Path, tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["more"] = np.zeros(2**20, np.float32)

    refuse(edit_weights(tiny_two, tmp_path / "model.keras", edit), "10 layers with 588 bytes of weights, and 4,2")


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "folder", "loop"])
def test_check_model_of_no_file_of_a_models_size_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.keras"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        path.touch()
        os.truncate(path, MAX_MODEL_BYTES + 1)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    for open_model in (read_card, check_model, ExportedModel):
        with pytest.raises(HeadstartError) as caught:
            open_model(path)
        assert (caught.value.where, caught.value.expected) == (path, "an exported model")


@pytest.mark.parametrize("in_place", [False, True], ids=["renamed", "rewritten"])
def test_exported_model_that_is_replaced_while_it_is_opened_is_the_one_that_was_checked(
    tiny_two: Path, tiny_three: Path, tmp_path: Path, in_place: bool
) -> None:
    path, other = tmp_path / "model.keras", tmp_path / "other.keras"
    shutil.copy(tiny_two, path)
    shutil.copy(tiny_three, other)
    load_model = keras.saving.load_model

    def load_later(*args: Any, **options: Any) -> Any:
        if in_place:
            path.write_bytes(other.read_bytes())
        else:
            other.replace(path)
        return load_model(*args, **options)

    with mock.patch.object(keras.saving, "load_model", load_later):
        model = ExportedModel(path)
    assert model.card == read_card(tiny_two)
    assert read_card(path) == read_card(tiny_three)
    pixels = [np.zeros((16, 16, 3), np.uint8)]
    assert list(model.predict(pixels, 1)) == list(ExportedModel(tiny_two).predict(pixels, 1))
