"""ONNX and OpenVINO models agree with the Keras model, keep its labels, and refuse damaged files."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import HeadstartError
from extract.engines.openvino import import_openvino
from tests.errors import raises
from tests.train_head.export.conftest import Exported
from tests.train_head.export.tiny import ODD_CLASSES
from train_head.data.batches import Array
from train_head.export.config import Dtype, Format
from train_head.export.convert import build_function
from train_head.export.description import ModelDescription
from train_head.export.formats import FORMATS, Source, import_format
from train_head.export.formats.onnx import DESCRIPTION_KEY, LABELS_KEY
from train_head.export.load import load_export
from train_head.export.outputs import Outputs

RUNTIMES = [Format.ONNX, Format.OPENVINO]
TOLERANCES = {Dtype.FLOAT32: 1e-5, Dtype.FLOAT16: 5e-3, Dtype.INT8: 0.05}
Convert = Callable[[Format, Dtype], Path]


@pytest.fixture(scope="module")
def source(exported: Exported) -> Source:
    """Model with large kernels, a distance, and two classes with odd names."""
    card, model = load_export(exported.model)
    description = ModelDescription(replace(card, classes=ODD_CLASSES[:2]), training=["0" * 16])
    return Source(build_function(model), description, Dtype.FLOAT32)


@pytest.fixture(scope="module")
def convert(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Function that converts the model once and returns the path of the converted model."""

    @functools.cache
    def run(each: Format, dtype: Dtype) -> Path:
        folder = tmp_path_factory.mktemp(f"{each}-{dtype}")
        import_format(each).convert(replace(source, dtype=dtype), folder)
        return folder / FORMATS[each].path

    return run


@pytest.fixture(scope="module")
def expected(exported: Exported, pictures: list[Array]) -> list[Outputs]:
    run = import_format(Format.KERAS).load(exported.model)
    return [run(batch) for batch in pictures]


@pytest.fixture(scope="module")
def pictures() -> list[Array]:
    """Batches of different sizes and numbers of pictures."""
    rng = np.random.default_rng(0)
    shapes = [(1, 75, 75, 3), (1, 64, 131, 3), (3, 97, 60, 3), (1, 1, 1, 3), (2, 200, 33, 3)]
    return [rng.uniform(0, 255, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("each", RUNTIMES)
def test_converted_model_agrees_with_keras_on_pictures_of_all_sizes(
    convert: Convert, pictures: list[Array], expected: list[Outputs], each: Format, dtype: Dtype
) -> None:
    run = import_format(each).load(convert(each, dtype))
    for batch, outputs in zip(pictures, expected, strict=True):
        found = run(batch)
        np.testing.assert_allclose(found.probabilities, outputs.probabilities, rtol=0, atol=TOLERANCES[dtype])
        assert found.distances is not None
        assert outputs.distances is not None
        np.testing.assert_allclose(found.distances, outputs.distances, rtol=TOLERANCES[dtype] + 1e-3)


@pytest.mark.parametrize("each", RUNTIMES)
def test_smaller_dtypes_write_smaller_files(convert: Convert, each: Format) -> None:
    sizes = [sum(file.stat().st_size for file in convert(each, dtype).parent.iterdir()) for dtype in Dtype]
    assert sizes[1] < 0.7 * sizes[0]
    assert sizes[2] < 0.45 * sizes[0]


@pytest.mark.parametrize("each", RUNTIMES)
def test_int8_model_in_threads_gives_each_picture_the_same_outputs_as_alone(convert: Convert, each: Format) -> None:
    run = import_format(each).load(convert(each, Dtype.INT8))
    rng = np.random.default_rng(1)
    batches = [rng.uniform(0, size, (4, 50, 50 + number, 3)) for number, size in enumerate((255, 10, 100, 255))]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, batches * 3))
    for number, outputs in enumerate(together):
        for row, picture in enumerate(batches[number % 4]):
            alone = run(picture[None])
            np.testing.assert_allclose(outputs.probabilities[row], alone.probabilities[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.INT8])
def test_onnx_file_has_named_axes_labels_and_standard_operators_only(convert: Convert, dtype: Dtype) -> None:
    import onnx

    model = onnx.load(convert(Format.ONNX, dtype))
    onnx.checker.check_model(model, full_check=True)
    assert [opset.domain for opset in model.opset_import] == [""]
    values = [*model.graph.input, *model.graph.output]
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values
    }
    assert axes == {
        "rgb": ["batch", "height", "width", 3],
        "probability": ["batch", 2],
        "distance": ["batch", 1],
    }
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties[LABELS_KEY]) == ODD_CLASSES[:2]
    content = json.loads(properties[DESCRIPTION_KEY])
    assert (content["classes"], content["training"]) == (ODD_CLASSES[:2], [])


def test_openvino_file_has_named_tensors_and_labels(convert: Convert) -> None:
    model = import_openvino().Core().read_model(convert(Format.OPENVINO, Dtype.INT8))
    assert {name for value in (*model.inputs, *model.outputs) for name in value.get_names()} == {
        "rgb",
        "probability",
        "distance",
    }
    assert json.loads(model.get_rt_info(["headstart", "labels"]).astype(str)) == ODD_CLASSES[:2]
    assert json.loads(model.get_rt_info(["headstart", "description"]).astype(str))["classes"] == ODD_CLASSES[:2]
    assert len(model.get_rt_info(["model_info", "labels"]).astype(str).split(" ")) == 2


@pytest.mark.parametrize("each", RUNTIMES)
@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\x08\x08" + bytes(100), None])
def test_load_of_a_damaged_file_is_an_error(
    convert: Convert, tmp_path: Path, each: Format, content: bytes | None
) -> None:
    path = convert(each, Dtype.FLOAT32)
    damaged = tmp_path / path.name
    damaged.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with raises(HeadstartError, where=damaged):
        import_format(each).load(damaged)


@pytest.mark.parametrize("num_bytes", [None, 0, 5000])
def test_load_of_openvino_with_a_missing_or_short_model_bin_is_an_error(
    convert: Convert, tmp_path: Path, num_bytes: int | None
) -> None:
    path = convert(Format.OPENVINO, Dtype.FLOAT32)
    (tmp_path / path.name).write_bytes(path.read_bytes())
    if num_bytes is not None:
        (tmp_path / "model.bin").write_bytes((path.parent / "model.bin").read_bytes()[:num_bytes])
    with raises(HeadstartError, where=tmp_path / path.name):
        import_format(Format.OPENVINO).load(tmp_path / path.name)


@pytest.mark.parametrize("each", RUNTIMES)
def test_load_from_a_folder_whose_name_is_not_utf8_works(convert: Convert, tmp_path: Path, each: Format) -> None:
    folder = tmp_path / "caf\udce9 \N{CAT FACE}"
    shutil.copytree(convert(each, Dtype.INT8).parent, folder)
    run = import_format(each).load(folder / FORMATS[each].path)
    assert run(np.zeros((1, 9, 9, 3), np.float32)).probabilities.shape == (1, 2)


def test_load_of_another_onnx_model_is_an_error(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    values: list[Any] = [helper.make_tensor_value_info(name, 1, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "other", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    with raises(HeadstartError, where=tmp_path / "a.onnx"):
        import_format(Format.ONNX).load(tmp_path / "a.onnx")


def test_convert_to_onnx_of_weights_above_its_limit_is_an_error(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.export.formats.onnx_graph.MAX_BYTES", 1000)
    with raises(HeadstartError, where="--formats onnx"):
        import_format(Format.ONNX).convert(source, tmp_path)


def test_import_onnxruntime_creates_no_identifier(tmp_path: Path) -> None:
    program = "from train_head.export.formats.onnx_graph import import_onnxruntime; import_onnxruntime()"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, env={**environment, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []
