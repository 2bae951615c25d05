"""Keras's advisories one by one: a model made after each is refused, and what it carries does not run."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.datasets import mnist
from keras.src.saving.serialization_lib import in_safe_mode

from tests.features.shards.test_validate import SECRET, watch
from tests.train_head.export import test_model_weights
from tests.train_head.export.test_model_file import (
    Config,
    Edit,
    add_layer,
    edit_json,
    hidden_layer,
    read_members,
    refuse,
    write_members,
)

DOCUMENT = Path(__file__).parents[3] / "docs/security.md"


@pytest.fixture(autouse=True)
def floatx() -> Iterator[None]:
    """Puts back what some of the models change where Keras loads them."""
    yield
    keras.config.set_floatx("float32")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is there once something was run."""
    return tmp_path / "marker"


@pytest.fixture
def saved_model(tmp_path: Path, marker: Path) -> Path:
    """A SavedModel that writes the marker when it is loaded."""
    with tf.Graph().as_default() as graph:
        write = tf.io.write_file(str(marker), "ran")
        value = tf.compat.v1.placeholder(tf.float32, (None,))
        call = tf.compat.v1.saved_model.predict_signature_def({"x": value}, {"y": value * 2})
        builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "saved"))
        with tf.compat.v1.Session(graph=graph) as session:
            builder.add_meta_graph_and_variables(session, ["serve"], {"serve": call}, main_op=write)
        builder.save()
    return tmp_path / "saved"


def name_function(name: str, module: str | None) -> Config:
    return {"module": module, "class_name": "function", "config": name, "registered_name": "function"}


def call_in_lambda(function: Config, value: object) -> Edit:
    return lambda config: add_layer(config, "Lambda", {"function": function}, value)


def call_in_activation(function: Config, value: object) -> Edit:
    return lambda config: add_layer(config, "Activation", {"activation": function}, value)


def list_carriers(function: Config, value: object) -> list[tuple[Edit, str]]:
    """Every place of a configuration that Keras looks for a function or an object in."""
    named = f"a part {function['module']}.function, which no export has"
    return [
        (call_in_lambda(function, value), "a part keras.layers.Lambda, which no export has"),
        (call_in_activation(function, value), named),
        (lambda c: add_layer(c, "Flatten", {}, value).update(function), named),
        (lambda c: add_layer(c, "Flatten", {}, function), named),
        (lambda c: hidden_layer(c)["config"].update(activation=function), named),
        (lambda c: hidden_layer(c)["config"].update(kernel_initializer=function), named),
        (lambda c: hidden_layer(c)["config"].update(kernel_constraint=function), named),
        (lambda c: hidden_layer(c)["config"].update(quantization_config=function), named),
        (lambda c: hidden_layer(c)["config"].update(dtype=function), named),
        (lambda c: c["config"]["layers"][-1].update(compile_config={"loss": [function]}), named),
        (lambda c: c.update(compile_config={"optimizer": function}), named),
        (lambda c: c.update(function, config=c["config"]), named),
        (lambda c: c["config"].update(custom={"deep": [[function]]}), named),
    ]


def refuse_carriers(source: Path, path: Path, function: Config, value: object) -> None:
    for edit, reason in list_carriers(function, value):
        refuse(edit_json(source, path, edit), reason)


def load_plainly(path: Path, safe_mode: bool = True) -> Any:
    return keras.saving.load_model(path, compile=False, safe_mode=safe_mode)


def make_lambda(marker: Path) -> Config:
    where = str(marker)
    config: Config = keras.layers.Lambda(lambda _: open(where, "w").close()).get_config()  # noqa: PTH123, SIM115
    return {"function": json.loads(json.dumps(config["function"]))}


def test_every_advisory_of_the_document_has_a_test_of_its_number() -> None:
    (table,) = re.findall(r"^## Advisories against Keras$(.*?)^## ", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    numbers = set(re.findall(r"CVE-(20\d\d-\d+)", table))
    assert len(numbers) >= 14
    named = [name for name in {**globals(), **vars(test_model_weights)} if name.startswith("test_model_")]
    missing = [
        number for number in sorted(numbers) if not any(f"_{number.replace('-', '_')}_" in name for name in named)
    ]
    assert missing == []


def test_model_cve_2024_3660_lambda_with_bytecode_is_refused_and_not_run(
    tiny_two: Path, tmp_path: Path, marker: Path
) -> None:
    path = edit_json(tiny_two, tmp_path / "m.keras", lambda c: add_layer(c, "Lambda", make_lambda(marker), "x"))
    load_plainly(path, safe_mode=False)
    marker.unlink()
    refuse(path, "a part keras.layers.Lambda, which no export has")
    bytecode = make_lambda(marker)["function"]
    refuse(
        edit_json(tiny_two, path, lambda c: hidden_layer(c)["config"].update(extra=bytecode)), "a part None.__lambda__"
    )
    assert not marker.exists()


def test_model_cve_2025_1550_any_function_of_any_module_is_refused_and_not_called(
    tiny_two: Path, tmp_path: Path, marker: Path
) -> None:
    for module, name in (("os", "system"), ("builtins", "eval"), ("subprocess", "run"), ("pathlib", "Path")):
        refuse_carriers(tiny_two, tmp_path / "m.keras", name_function(name, module), f"touch {marker}")
    named = {"module": "subprocess", "class_name": "Popen", "registered_name": None}
    path = edit_json(tiny_two, tmp_path / "m.keras", lambda c: add_layer(c, "Flatten", {"args": "id"}).update(named))
    refuse(path, "a part subprocess.Popen, which no export has")
    assert not marker.exists()


def test_model_cve_2025_8747_get_file_as_a_gadget_is_refused_and_fetches_nothing(
    tiny_two: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    with watch(secret) as was_read:
        refuse_carriers(tiny_two, tmp_path / "m.keras", name_function("get_file", "keras.utils"), f"file://{secret}")
        assert not was_read()


def make_legacy(path: Path, kind: str, options: Config, inputs: str) -> Path:
    first = {"class_name": "InputLayer", "config": {"batch_shape": [None, 3], "name": "i"}, "name": "i"}
    ends = {"name": "m", "input_layers": [["i", 0, 0]], "output_layers": [["i", 0, 0]]}
    config: Config = {"class_name": "Functional", "config": {"layers": [{**first, "inbound_nodes": []}], **ends}}
    add_layer(config, kind, options, inputs)
    with h5py.File(path, "w") as file:
        file.attrs.update(model_config=json.dumps(config).encode(), keras_version=b"3", backend=b"tensorflow")
        file.create_group("model_weights").attrs.update(layer_names=[], backend=b"tensorflow", keras_version=b"3")
    return path


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5", "model.keras"])
def test_model_cve_2025_9905_legacy_file_is_refused_and_its_lambda_not_run(
    tmp_path: Path, marker: Path, name: str
) -> None:
    path = make_legacy(tmp_path / "legacy.h5", "Lambda", make_lambda(marker), "x")
    load_plainly(path, safe_mode=False)
    marker.unlink()
    refuse(path.rename(tmp_path / name), "File is not a zip file")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_model_cve_2025_9905_legacy_file_with_an_export_at_its_end_is_refused_and_not_loaded(
    tiny_two: Path, tmp_path: Path, name: str
) -> None:
    options = {"activation": name_function("set_floatx", "keras.config")}
    path = make_legacy(tmp_path / name, "Activation", options, "float16")
    end = write_members(tmp_path / "end.zip", read_members(tiny_two)).read_bytes()
    path.write_bytes(path.read_bytes() + end)
    load_plainly(path)
    assert keras.config.floatx() == "float16"
    refuse(path, "")


def test_model_cve_2025_9906_turning_safe_mode_off_is_refused_and_it_stays_on(tiny_two: Path, tmp_path: Path) -> None:
    before = in_safe_mode()
    function = name_function("enable_unsafe_deserialization", "keras.config")
    refuse_carriers(tiny_two, tmp_path / "m.keras", function, [])
    assert in_safe_mode() is before is None


def test_model_cve_2026_1462_saved_model_layer_is_refused_and_not_run(
    tiny_two: Path, tmp_path: Path, saved_model: Path, marker: Path
) -> None:
    path = edit_json(
        tiny_two, tmp_path / "m.keras", lambda c: add_layer(c, "TFSMLayer", {"filepath": str(saved_model)})
    )
    load_plainly(path, safe_mode=False)
    marker.unlink()
    refuse(path, "a part keras.layers.TFSMLayer, which no export has")
    assert not marker.exists()


@pytest.mark.parametrize("module", ["keras.layers", None, "keras", "builtins"])
@pytest.mark.parametrize("call", [call_in_lambda, call_in_activation])
def test_model_open_saved_model_layer_named_as_a_function_is_refused_and_not_run(
    tiny_two: Path, tmp_path: Path, saved_model: Path, marker: Path, call: Callable[..., Edit], module: str | None
) -> None:
    function = name_function("TFSMLayer", module)
    if module == "keras.layers":
        load_plainly(edit_json(tiny_two, tmp_path / "m.keras", call(function, str(saved_model))))
        marker.unlink()
    refuse_carriers(tiny_two, tmp_path / "m.keras", function, str(saved_model))
    assert not marker.exists()


@pytest.mark.parametrize("call", [call_in_lambda, call_in_activation])
def test_model_open_other_callables_named_as_functions_are_refused_and_not_called(
    tiny_two: Path, tmp_path: Path, call: Callable[..., Edit]
) -> None:
    path, weights = tmp_path / "m.keras", tmp_path / "some.weights.h5"
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"] = np.ones(3)
    set_floatx = name_function("set_floatx", "keras.config")
    edit_weights_file = name_function("KerasFileEditor", "keras.saving")
    load_data = name_function("load_data", "keras.datasets.mnist")
    with (
        mock.patch.object(mnist, "get_file", side_effect=OSError("no network")) as get_file,
        watch(weights) as was_read,
    ):
        load_plainly(edit_json(tiny_two, path, call(set_floatx, "float16")))
        assert keras.config.floatx() == "float16"
        load_plainly(edit_json(tiny_two, path, call(edit_weights_file, str(weights))))
        assert was_read()
        with pytest.raises(OSError, match="no network"):
            load_plainly(edit_json(tiny_two, path, call(load_data, str(tmp_path / "anywhere"))))
        get_file.assert_called_once()
        get_file.reset_mock()
        keras.config.set_floatx("float32")
        refuse_carriers(tiny_two, path, set_floatx, "float16")
        refuse_carriers(tiny_two, path, edit_weights_file, str(weights))
        refuse_carriers(tiny_two, path, load_data, str(tmp_path / "anywhere"))
        assert keras.config.floatx() == "float32"
        assert not was_read()
        get_file.assert_not_called()


def test_model_cve_2026_12481_bytecode_inside_a_wrapper_is_refused_and_never_read_from_its_config(
    tiny_two: Path, tmp_path: Path, marker: Path
) -> None:
    inner = {"module": "keras.layers", "class_name": "Lambda", "config": make_lambda(marker), "registered_name": None}
    edits: list[tuple[Edit, str]] = [
        (lambda c: add_layer(c, "TimeDistributed", {"layer": inner}), "a part keras.layers.TimeDistributed"),
        (lambda c: c["config"]["layers"][-1]["config"]["layers"].append(inner), "a part keras.layers.Lambda"),
        (lambda c: add_layer(c, "Flatten", {"layer": inner}), "a part keras.layers.Lambda"),
    ]
    with mock.patch.object(keras.layers.Lambda, "from_config") as from_config:
        for edit, reason in edits:
            refuse(edit_json(tiny_two, tmp_path / "m.keras", edit), reason)
        from_config.assert_not_called()
    assert not marker.exists()


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._marker),)


@pytest.mark.parametrize("place", ["keras.layers", "keras.src.utils.torch_utils"])
def test_model_cve_2025_49655_torch_module_is_refused_and_not_unpickled(
    tiny_two: Path, tmp_path: Path, marker: Path, place: str
) -> None:
    pickled = pickle.dumps(Payload(marker), 0).decode()
    pickle.loads(pickled.encode())
    marker.rmdir()
    module = {"class_name": "__bytes__", "config": {"value": pickled}}

    def edit(config: Config) -> None:
        add_layer(config, "TorchModuleWrapper", {"module": module}, module=place)

    path = tmp_path / "m.keras"
    refuse(edit_json(tiny_two, path, edit), f"a part {place}.TorchModuleWrapper, which no export has")
    refuse(
        edit_json(tiny_two, path, lambda c: hidden_layer(c)["config"].update(module=module)),
        "a part None.__bytes__, which no export has",
    )
    assert not marker.exists()
