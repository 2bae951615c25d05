"""Keras's advisories on files and memory: what a model would read, write or make room for, and may not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.features.shards.test_validate import SECRET, add_virtual, watch
from tests.train_head.export.test_model_file import (
    Edit,
    add_layer,
    edit_json,
    edit_weights,
    hidden_layer,
    read_members,
    refuse,
    write_members,
)

KERNEL = "layers/sequential/layers/dense/vars/0"
MAX_BYTES = 2**22
"""Of memory, to refuse a model of 40 kB."""


def declare(**options: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[KERNEL]
        file.create_dataset(KERNEL, **options)

    return edit


def test_model_cve_2026_0897_more_weights_than_are_stored_is_refused_without_memory(
    tiny_two: Path, tmp_path: Path
) -> None:
    large = {"units": 10**9}
    shape = {"build_config": {"input_shape": [None, 1]}}
    edits: list[tuple[Edit, str]] = [
        (lambda c: hidden_layer(c)["config"].update(large), "10 layers with 192,000,000,012 bytes of weights, and"),
        (lambda c: add_layer(c, "Dense", large, **shape), "11 layers with 4,000,000,588 bytes of weights, and"),
        (lambda c: [add_layer(c, "Dense", {"units": 100}, **shape) for _ in range(90)], "with 36,588 bytes of weights"),
    ]
    weights = [
        (declare(shape=(10**9,), dtype="f4"), "dense/vars/0 declares 4,000,000,000 bytes, and 0 are stored"),
        (declare(shape=(10**9,), dtype="f4", chunks=(10**6,), compression="gzip"), "declares 1,000 chunks, and holds"),
        (declare(data=np.zeros(10**6, "u1"), compression="gzip"), "bytes are declared, more than "),
    ]
    made = [(edit_json(tiny_two, tmp_path / f"{n}.keras", edit), why) for n, (edit, why) in enumerate(edits)]
    made += [(edit_weights(tiny_two, tmp_path / f"w{n}.keras", edit), why) for n, (edit, why) in enumerate(weights)]
    for path, reason in made:
        tracemalloc.start()
        try:
            refuse(path, reason)
            assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: hidden_layer(c)["config"].update(lora_rank=10**9),
        lambda c: add_layer(c, "Dense", {"units": 1, "lora_rank": 10**9}, build_config={"input_shape": [None, 1]}),
        lambda c: add_layer(c, "BatchNormalization", {"axis": 1}, build_config={"input_shape": [None, 10**9, 4, 3]}),
        lambda c: add_layer(
            c,
            "Conv2D",
            {"filters": 1, "kernel_size": [1, 1], "data_format": "channels_first"},
            build_config={"input_shape": [None, 10**9, 8, 1]},
        ),
        lambda c: add_layer(
            c,
            "Conv2D",
            {"filters": 1, "kernel_size": [1, 1], "lora_rank": 10**9},
            build_config={"input_shape": [None, 8, 8, 1]},
        ),
    ],
    ids=["lora of the head", "lora of a dense layer", "axis", "channels first", "lora of a convolution"],
)
def test_model_cve_2026_0897_options_that_make_large_arrays_are_refused_without_memory(
    tiny_two: Path, tmp_path: Path, edit: Edit
) -> None:
    path = edit_json(tiny_two, tmp_path / "model.keras", edit)
    tracemalloc.start()
    try:
        refuse(path, "")
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


def lead_to(kind: str, secret: Path) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        group = file[KERNEL].parent
        del file[KERNEL]
        if kind == "storage":
            file.create_dataset(KERNEL, len(SECRET), np.uint8, external=[(str(secret), 0, len(SECRET))])
        elif kind == "link":
            file[KERNEL] = h5py.ExternalLink(str(secret), "/secret")
        elif kind == "group":
            del file["layers/sequential"]
            file["layers/sequential"] = h5py.ExternalLink(str(secret), "/")
        else:
            add_virtual(group, "0", secret, len(SECRET))

    return edit


def refuse_leading(source: Path, folder: Path, kind: str, reason: str) -> None:
    """Has weights that lie elsewhere refused, without a look at where they lie."""
    secret = folder / "secret"
    if kind == "storage":
        secret.write_bytes(SECRET)
    else:
        with h5py.File(secret, "w") as file:
            file["secret"] = np.frombuffer(SECRET, np.uint8)
    path = edit_weights(source, folder / "m.keras", lead_to(kind, secret))
    (folder / "weights.h5").write_bytes(read_members(path)["model.weights.h5"])
    with watch(secret) as was_read:
        refuse(path, reason)
        assert not was_read()
        with h5py.File(folder / "weights.h5") as file:
            found = file["layers/sequential/secret" if kind == "group" else KERNEL][:]
        assert found.tobytes() == SECRET
        assert was_read()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("storage", f"/{KERNEL} lies in another file"),
        ("link", f"/{KERNEL} is a link to somewhere else"),
        ("group", "/layers/sequential is a link to somewhere else"),
    ],
)
def test_model_cve_2026_1669_weights_in_another_file_are_refused_and_it_is_not_read(
    tiny_two: Path, tmp_path: Path, kind: str, reason: str
) -> None:
    refuse_leading(tiny_two, tmp_path, kind, reason)


def test_model_cve_2026_12480_virtual_weights_are_refused_and_their_file_is_not_read(
    tiny_two: Path, tmp_path: Path
) -> None:
    refuse_leading(tiny_two, tmp_path, "virtual", f"/{KERNEL} lies in another file")


@pytest.mark.parametrize("kind", ["StringLookup", "IntegerLookup", "TextVectorization"])
def test_model_cve_2025_12058_vocabulary_from_a_path_is_refused_and_not_read(
    tiny_two: Path, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    path = edit_json(tiny_two, tmp_path / "m.keras", lambda c: add_layer(c, kind, {"vocabulary": str(secret)}))
    with watch(secret) as was_read:
        refuse(path, f"a part keras.layers.{kind}, which no export has")
        assert not was_read()


@pytest.mark.parametrize("name", ["assets/../../evil", "../evil", "evil.tar"])
def test_model_cve_2025_12060_get_file_that_extracts_is_refused_and_writes_nothing(
    tiny_two: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    function = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "function"}
    arguments = {"origin": "x", "extract": True}
    path = edit_json(
        tiny_two, tmp_path / "in/m.keras", lambda c: add_layer(c, "Flatten", {}, arguments).update(function)
    )
    refuse(path, "a part keras.utils.function, which no export has")
    refuse(write_members(path, read_members(tiny_two) | {name: b"evil"}), "a zip file of 'metadata.json'")
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["in", "in/m.keras"]


@pytest.mark.parametrize("name", ["assets/../../evil", "assets/layers/../../../evil", "assets/evil"])
def test_model_cve_2026_12479_assets_are_refused_and_none_is_written(tiny_two: Path, tmp_path: Path, name: str) -> None:
    path = write_members(tmp_path / "m.keras", read_members(tiny_two) | {name: b"evil"})
    refuse(path, f"a zip file of 'metadata.json', 'config.json', 'model.weights.h5', 'headstart.json', {name!r}")
    assert list(tmp_path.iterdir()) == [path]
