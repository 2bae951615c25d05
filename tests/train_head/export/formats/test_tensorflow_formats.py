"""SavedModel and LiteRT: the outputs of the Keras model for pictures of any size, and the class names inside."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from tests.errors import raises
from tests.train_head.synthetic import build_small_backbone, draw_distance, make_small_card
from train_head.data.batches import Array
from train_head.export.config import Dtype, Format
from train_head.export.convert import build_function
from train_head.export.description import ModelDescription, parse_description
from train_head.export.formats import FORMATS, Source, import_format, list_files
from train_head.export.load import load_export
from train_head.export.outputs import Outputs
from train_head.export.stitch import save_model, stitch
from train_head.runs.card import ModelCard, format_labels, read_card
from train_head.solvers.head import build_head

CLASSES = ["cats, big", "dogs 🐕", "Füchse \\ \n"]
NUM_UNITS = 5000
SIZES = [(1, 1), (64, 90), (3, 900), (75, 75), (64, 90)]
CASES = [(Format.SAVED_MODEL, Dtype.FLOAT32), *((Format.LITERT, dtype) for dtype in Dtype)]
TOLERANCES = {Dtype.FLOAT32: 1e-5, Dtype.FLOAT16: 2e-3, Dtype.INT8: 0.05}

Run = Callable[[Array], Outputs]


def convert_model(model: Path, folder: Path, each: Format, dtype: Dtype = Dtype.FLOAT32) -> Path:
    """Convert a model.keras in this process, and return the path of the new format."""
    card, loaded = load_export(model)
    import_format(each).convert(
        Source(build_function(loaded), ModelDescription(card, training=["0" * 16]), dtype), folder
    )
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == list_files(
        FORMATS[each].names
    )
    return folder / FORMATS[each].path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export with a hidden layer, three classes of odd names and the distance."""
    backbone = build_small_backbone()
    head = build_head(backbone.output_shape[1:], 3, NUM_UNITS, 0.5, seed=4)
    card: ModelCard = replace(make_small_card(3), classes=CLASSES, outlier_threshold=3.0)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(stitch(backbone, head, card.image_size, draw_distance(backbone, 3)), card, path)
    return path


@pytest.fixture(scope="module")
def expected(model: Path) -> Run:
    return import_format(Format.KERAS).load(model)


@pytest.fixture(scope="module")
def converted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Format, Dtype], Path]:
    return {case: convert_model(model, tmp_path_factory.mktemp("converted"), *case) for case in CASES}


def draw_images(num: int, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(height).integers(0, 256, (num, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(("each", "dtype"), CASES)
def test_load_of_a_converted_model_gives_the_outputs_for_any_sizes(
    converted: dict[tuple[Format, Dtype], Path], expected: Run, each: Format, dtype: Dtype
) -> None:
    run = import_format(each).load(converted[each, dtype])
    for number, size in enumerate(SIZES):
        images = draw_images(1 + number % 3, *size)
        found, wanted = run(images), expected(images)
        assert found.distances is not None and wanted.distances is not None  # noqa: PT018
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=TOLERANCES[dtype])
        np.testing.assert_allclose(found.distances, wanted.distances, rtol=100 * TOLERANCES[dtype], atol=1e-3)


@pytest.mark.parametrize("each", [Format.SAVED_MODEL, Format.LITERT])
def test_load_of_a_converted_model_of_two_classes_gives_two_columns(
    tiny_two: Path, tmp_path: Path, each: Format
) -> None:
    found = import_format(each).load(convert_model(tiny_two, tmp_path, each))(draw_images(2, 40, 50))
    wanted = import_format(Format.KERAS).load(tiny_two)(draw_images(2, 40, 50))
    assert found.probabilities.shape == (2, 2)
    assert found.distances is None
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)


def test_litert_model_in_several_threads_gives_the_output_of_each_picture(
    converted: dict[tuple[Format, Dtype], Path], expected: Run
) -> None:
    run = import_format(Format.LITERT).load(converted[Format.LITERT, Dtype.FLOAT32])
    images = [draw_images(1, 20 + 7 * number, 50) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, images))
    for image, outputs in zip(images, found, strict=True):
        np.testing.assert_allclose(outputs.probabilities, expected(image).probabilities, atol=1e-5)


def test_convert_stores_class_names_and_description_inside(
    converted: dict[tuple[Format, Dtype], Path], model: Path
) -> None:
    with zipfile.ZipFile(converted[Format.LITERT, Dtype.INT8]) as archive:
        litert = {name: archive.read(name) for name in archive.namelist()}
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    assets = converted[Format.SAVED_MODEL, Dtype.FLOAT32] / "assets"
    for files in (litert, {file.name: file.read_bytes() for file in assets.iterdir()}):
        assert files["labels.txt"] == format_labels(CLASSES)
        description = parse_description(files["model.json"])
        assert (description.card, description.training) == (read_card(model), [])


def test_convert_to_smaller_weights_makes_smaller_files(converted: dict[tuple[Format, Dtype], Path]) -> None:
    sizes = {dtype: converted[Format.LITERT, dtype].stat().st_size for dtype in Dtype}
    num_weights = NUM_UNITS * 35
    assert sizes[Dtype.FLOAT32] - sizes[Dtype.FLOAT16] == pytest.approx(2 * num_weights, rel=0.05)
    assert sizes[Dtype.FLOAT16] - sizes[Dtype.INT8] == pytest.approx(num_weights, rel=0.4)


def test_saved_model_has_a_signature_with_named_input_and_outputs(
    converted: dict[tuple[Format, Dtype], Path],
) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(converted[Format.SAVED_MODEL, Dtype.FLOAT32]))
    signature: Any = loaded.signatures["serving_default"]
    assert signature.structured_input_signature[1]["rgb"].shape.as_list() == [None, None, None, 3]
    assert set(signature.structured_outputs) == {"probability", "distance"}


@pytest.mark.parametrize(
    ("each", "damaged"), [(Format.SAVED_MODEL, "saved_model.pb"), (Format.LITERT, ""), (Format.SAVED_MODEL, "")]
)
def test_load_of_a_damaged_file_is_an_error(tmp_path: Path, each: Format, damaged: str) -> None:
    path = tmp_path / FORMATS[each].path
    if damaged:
        path.mkdir()
    (path / damaged).write_bytes(b"<html>" * 100)
    with raises(HeadstartError, where=path):
        import_format(each).load(path)
