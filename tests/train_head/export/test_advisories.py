"""Malicious models built after Keras's advisories: none of their code runs, and none of their files is accessed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.features.shards.test_validate import SECRET, add_virtual, watch
from tests.train_head.export.edits import (
    KERNEL,
    Config,
    EditWeights,
    assert_refused,
    edit_json,
    edit_weights,
    read_members,
    remove_digest,
    write_members,
)
from tests.train_head.synthetic import run_export
from train_head.export.load import load_export

PIXELS = [np.full((20, 30, 3), 99, np.uint8)]


@pytest.fixture(autouse=True)
def _floatx() -> Iterator[None]:
    """Restore the float type, which some of the models change when Keras loads them."""
    yield
    import keras

    keras.config.set_floatx("float32")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Path of a file that the malicious code would create."""
    return tmp_path / "marker"


@pytest.fixture(scope="session")
def older(tiny_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export without a digest, not to be changed: edits of it are not detected."""
    return remove_digest(tiny_two, tmp_path_factory.mktemp("older") / "older.keras")


@pytest.fixture(scope="session")
def outputs(tiny_two: Path) -> NDArray[np.float32]:
    """Outputs of the unedited model."""
    return run_export(tiny_two, PIXELS)


def add_layer(config: Config, kind: str, options: Config, inputs: object = None) -> None:
    """Add a layer that no output needs; Keras builds it nevertheless, and applies it to `inputs`."""
    nodes = [] if inputs is None else [{"args": [], "kwargs": {"inputs": inputs}}]
    layer = {"module": "keras.layers", "class_name": kind, "registered_name": None, "name": "dead"}
    config["config"]["layers"].append({**layer, "config": {"name": "dead", **options}, "inbound_nodes": nodes})


def name_function(name: str, module: str) -> Config:
    return {"module": module, "class_name": "function", "config": name, "registered_name": "function"}


def make_lambda(marker: Path) -> Config:
    import keras

    where = str(marker)
    config: Config = keras.layers.Lambda(lambda _: open(where, "w").close()).get_config()  # noqa: PTH123, SIM115
    return {"function": json.loads(json.dumps(config["function"]))}


def save_writer(folder: Path, marker: Path) -> Path:
    """Write a SavedModel that creates the marker when it is loaded."""
    if folder.exists():
        return folder
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        write = tf.io.write_file(str(marker), "ran")
        value = tf.compat.v1.placeholder(tf.float32, (None,))
        call = tf.compat.v1.saved_model.predict_signature_def({"x": value}, {"y": value * 2})
        builder = tf.compat.v1.saved_model.Builder(str(folder))
        with tf.compat.v1.Session(graph=graph) as session:
            builder.add_meta_graph_and_variables(session, ["serve"], {"serve": call}, main_op=write)
        builder.save()
    return folder


class Payload:
    """Object that creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._marker),)


def attack_lambda(config: Config, marker: Path) -> None:
    """CVE-2024-3660, CVE-2026-12481: execute bytecode."""
    add_layer(config, "Lambda", make_lambda(marker), "x")


def attack_function(config: Config, marker: Path) -> None:
    """CVE-2025-1550: call any function of any module."""
    add_layer(config, "Activation", {"activation": name_function("system", "os")}, f"touch {marker}")


def attack_get_file(config: Config, marker: Path) -> None:
    """CVE-2025-8747, CVE-2025-12060: call functions of Keras that download and extract files."""
    add_layer(config, "Activation", {"activation": name_function("get_file", "keras.utils")}, f"file://{marker}")


def attack_safe_mode(config: Config, marker: Path) -> None:
    """CVE-2025-9906: turn safe mode off, then execute bytecode."""
    add_layer(config, "Activation", {"activation": name_function("enable_unsafe_deserialization", "keras.config")}, [])
    add_layer(config, "Lambda", make_lambda(marker), "x")


def attack_saved_model(config: Config, marker: Path) -> None:
    """CVE-2026-1462: run the graph of a SavedModel."""
    add_layer(config, "TFSMLayer", {"filepath": str(save_writer(marker.parent / "saved", marker))})


def attack_saved_model_function(config: Config, marker: Path) -> None:
    """Keras pull request 23654: name the class as a function, which safe mode of Keras 3.15.1 allows."""
    saved = str(save_writer(marker.parent / "saved", marker))
    add_layer(config, "Activation", {"activation": name_function("TFSMLayer", "keras.layers")}, saved)


def attack_pickle(config: Config, marker: Path) -> None:
    """CVE-2025-49655: unpickle a torch module."""
    module = {"class_name": "__bytes__", "config": {"value": pickle.dumps(Payload(marker), 0).decode()}}
    add_layer(config, "TorchModuleWrapper", {"module": module})


def attack_vocabulary(config: Config, marker: Path) -> None:
    """CVE-2025-12058: read a vocabulary from any path."""
    add_layer(config, "StringLookup", {"vocabulary": str(marker)})


def attack_units(config: Config, _: Path) -> None:
    """CVE-2026-0897: allocate layers of any size."""
    add_layer(config, "Dense", {"units": 10**9})


ATTACKS = [
    attack_lambda,
    attack_function,
    attack_get_file,
    attack_safe_mode,
    attack_saved_model,
    attack_saved_model_function,
    attack_pickle,
    attack_vocabulary,
    attack_units,
]


@pytest.mark.parametrize("attack", [attack_lambda, attack_saved_model, attack_saved_model_function])
def test_keras_load_model_executes_the_attack(
    older: Path, tmp_path: Path, marker: Path, attack: Callable[[Config, Path], None]
) -> None:
    import keras

    path = edit_json(older, tmp_path / "m.keras", lambda config: attack(config, marker))
    keras.saving.load_model(path, compile=False, safe_mode=attack is attack_saved_model_function)
    assert marker.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_load_export_ignores_the_configuration_and_executes_no_attack(
    tiny_two: Path,
    older: Path,
    outputs: NDArray[np.float32],
    tmp_path: Path,
    marker: Path,
    attack: Callable[[Config, Path], None],
) -> None:
    def edit(config: Config) -> None:
        attack(config, marker)

    path = edit_json(older, tmp_path / "m.keras", edit)
    with (
        mock.patch("keras.saving.load_model") as load_model,
        mock.patch("keras.src.saving.saving_lib.deserialize_keras_object") as deserialize,
    ):
        np.testing.assert_array_equal(run_export(path, PIXELS), outputs)
        assert_refused(edit_json(tiny_two, tmp_path / "m.keras", edit))
    load_model.assert_not_called()
    deserialize.assert_not_called()
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
@pytest.mark.parametrize("has_export", [False, True])
def test_load_export_of_a_legacy_file_executes_no_attack_of_cve_2025_9905(
    tiny_two: Path, outputs: NDArray[np.float32], tmp_path: Path, marker: Path, name: str, has_export: bool
) -> None:
    import keras

    first = {"class_name": "InputLayer", "config": {"batch_shape": [None, 3], "name": "i"}, "name": "i"}
    ends = {"name": "m", "input_layers": [["i", 0, 0]], "output_layers": [["i", 0, 0]]}
    config: Config = {"class_name": "Functional", "config": {"layers": [{**first, "inbound_nodes": []}], **ends}}
    attack_lambda(config, marker)
    with h5py.File(tmp_path / "legacy.h5", "w") as file:
        file.attrs.update(model_config=json.dumps(config).encode(), keras_version=b"3", backend=b"tensorflow")
        file.create_group("model_weights").attrs.update(layer_names=[], backend=b"tensorflow", keras_version=b"3")
    keras.saving.load_model(tmp_path / "legacy.h5", compile=False, safe_mode=False)
    marker.unlink()
    path = (tmp_path / "legacy.h5").rename(tmp_path / name)
    if has_export:
        # A zip archive is located by its end: the export is found, and the legacy file before it is ignored.
        end = write_members(tmp_path / "end.zip", read_members(tiny_two)).read_bytes()
        path.write_bytes(path.read_bytes() + end)
        np.testing.assert_array_equal(run_export(path, PIXELS), outputs)
    else:
        assert_refused(path)
    assert not marker.exists()


def refer_to_file(kind: str, secret: Path) -> EditWeights:
    """Replace the kernel, or its group, by a reference to another file."""

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


@pytest.mark.parametrize("kind", ["storage", "link", "group", "virtual"])
def test_load_export_of_weights_in_another_file_is_refused_without_reading_it(
    older: Path, tmp_path: Path, kind: str
) -> None:
    """CVE-2026-1669, CVE-2026-12480: return the content of any file as weights."""
    secret = tmp_path / "secret"
    if kind == "storage":
        secret.write_bytes(SECRET)
    else:
        with h5py.File(secret, "w") as file:
            file["secret"] = np.frombuffer(SECRET, np.uint8)
    path = edit_weights(older, tmp_path / "m.keras", refer_to_file(kind, secret))
    (tmp_path / "weights.h5").write_bytes(read_members(path)["model.weights.h5"])
    with watch(secret) as was_read:
        assert_refused(path)
        assert not was_read()
        with h5py.File(tmp_path / "weights.h5") as file:
            found = file["layers/sequential/secret" if kind == "group" else KERNEL][:]
        assert found.tobytes() == SECRET
        assert was_read()


@pytest.mark.parametrize("name", ["assets/../../evil", "assets/evil", "../evil"])
def test_load_export_writes_no_assets_of_cve_2026_12479(older: Path, tmp_path: Path, name: str) -> None:
    path = write_members(tmp_path / "in.keras", read_members(older) | {name: b"evil"})
    load_export(path)
    assert list(tmp_path.iterdir()) == [path]
    assert not (tmp_path.parent / "evil").exists()
