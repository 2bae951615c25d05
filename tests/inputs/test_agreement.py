"""Extraction, export, `predict` and plain Keras give equal results for every accepted kind of picture."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.terminal import Console
from extract.config import ExtractConfig
from extract.cut_backbone import CutBackbone
from extract.decoding.decode import decode_image
from extract.load import load_image
from extract.pixels import prepare_pixels, resize_pixels
from extract.weights.find import Weights, WeightsName
from features.schema import Features, round_features
from tests.commands import CommandResult, run_command
from tests.inputs.conftest import Extracted, locate
from tests.inputs.kinds import ACCEPTED
from tests.inputs.makers import SIZE
from tests.train_head.synthetic import run_export
from train_head.data.batches import Array
from train_head.data.split import split_examples
from train_head.export.__main__ import export
from train_head.export.config import ExportConfig
from train_head.export.parity import TOLERANCE
from train_head.export.pictures import Pictures
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.solvers.head import expand_probabilities, restore_head

NAMES = [kind.name for kind in ACCEPTED]


@dataclass(frozen=True)
class Exported:
    """Run of a head on the store of all kinds, its export, and the export's check."""

    run: Path
    model: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def exported(extracted: Extracted, quiet: Console) -> Exported:
    run, out = extracted.folder.parent / "run", extracted.folder.parent / "out"
    options = ["--epochs", 4, "--units", 16, "--learning-rate", 1e-3, "--solver", "full", "--no-report"]
    with pytest.MonkeyPatch.context() as patch:
        # The labels of the kinds are arbitrary: a fitted temperature would give all of them a probability of about 0.5.
        patch.setattr("train_head.train.choose_temperature", lambda *_: 1.0)
        result = run_command("train_head.__main__", "--store", extracted.path, "--run", run, *options)
    assert result.status == 0, result.err
    return Exported(run, out / "model.keras", dict(export(ExportConfig(run, out), quiet)))


@pytest.fixture(scope="module")
def predicted(extracted: Extracted, exported: Exported) -> dict[str, float]:
    """Probability of dogs that `predict` gives, by the name of the kind."""
    folder = extracted.folder / "validation"
    result: CommandResult = run_command("train_head.predict.__main__", "--model", exported.model, folder, "--json")
    found = {prediction["image"]: prediction for prediction in result.json["predictions"]}
    assert len(found) == len(result.json["predictions"]) == len(ACCEPTED)
    probabilities = {}
    for kind in ACCEPTED:
        prediction = found[str(extracted.folder / locate(kind))]
        assert 0.5 <= prediction["probability"] <= 1
        is_dog = prediction["label"] == "dogs"
        probabilities[kind.name] = prediction["probability"] if is_dog else 1 - prediction["probability"]
    return probabilities


@dataclass(frozen=True)
class Stages:
    """Results of the single stages of extraction and training, with a row for each accepted kind."""

    prepared: Array
    engine_features: Array
    stored_features: Features
    from_engine: Array
    """Probability of dogs from the features of the engine."""
    from_keras: Array
    """Probability of dogs from the features of the Keras backbone."""
    from_store: Array
    """Probability of dogs from the stored features."""


@pytest.fixture(scope="module")
def stages(extracted: Extracted, exported: Exported, quiet: Console) -> Stages:
    store, run = extracted.store, Run(exported.run)
    by_path = {example.path: example for example in store.examples}
    examples = [by_path[locate(kind)] for kind in ACCEPTED]
    images = {image.path: image for image in store.images}
    config = ExtractConfig(extracted.folder, extracted.path, weights="random", image_size=75, cut="mixed0")
    backbone = CutBackbone(config, Weights(WeightsName.RANDOM), quiet)
    loaded = [load_image(images[example.path], config, backbone.prepare, lambda *_: [0]) for example in examples]
    assert [image.content_hash for image in loaded] == [example.content_hash for example in examples]
    prepared = np.stack([image.views[0] for image in loaded])
    (engine_features,) = backbone.run(prepared)
    split = split_examples(store.examples, float(run.record.config["validation_split"]))
    head = restore_head(expand_head(run, store, split.validation, quiet), store.feature_shape, 2, run.dropout)

    def classify(features: NDArray[Any]) -> Array:
        return expand_probabilities(head.predict_on_batch(features.astype(np.float32)))[:, 1]

    stored = store.read(examples)
    return Stages(
        prepared,
        engine_features,
        stored,
        classify(engine_features),
        classify(backbone.models["mixed0"].predict_on_batch(prepared)),
        classify(stored),
    )


@dataclass(frozen=True)
class PlainKeras:
    """Probability of dogs from the exported model in plain Keras, by the name of the kind."""

    whole: dict[str, float]
    """Probabilities from decoded pictures."""
    resized: dict[str, float]
    """Probabilities from pictures resized by extraction."""


@pytest.fixture(scope="module")
def plain_keras(exported: Exported) -> PlainKeras:
    import keras

    model = keras.saving.load_model(exported.model)
    pixels = {kind.name: decode_image(kind.make()) for kind in ACCEPTED}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, picture in pixels.items():
        by_shape.setdefault(picture.shape, []).append(name)
    whole: dict[str, float] = {}
    for names in by_shape.values():
        outputs = model(np.stack([pixels[name] for name in names]).astype(np.float32))
        whole |= dict(zip(names, np.asarray(outputs)[:, 0].tolist(), strict=True))
    resized = np.asarray(model(np.stack([resize_pixels(picture, 75) for picture in pixels.values()])))
    return PlainKeras(whole, dict(zip(pixels, resized[:, 0].tolist(), strict=True)))


def assert_near(found: dict[str, float], expected: dict[str, float], tolerance: float) -> None:
    """Assert equal values for every kind; a failure lists the kinds that differ."""
    assert found.keys() == expected.keys()
    differing = {name: (found[name], expected[name]) for name in NAMES if abs(found[name] - expected[name]) > tolerance}
    assert differing == {}


def name_rows(values: Array) -> dict[str, float]:
    return dict(zip(NAMES, values.tolist(), strict=True))


def test_probabilities_of_the_kinds_differ_by_far_more_than_the_tolerance(
    stages: Stages, plain_keras: PlainKeras
) -> None:
    assert TOLERANCE == 1e-5
    assert np.ptp(stages.from_keras) > 0.2
    assert np.all((stages.from_keras > 0.001) & (stages.from_keras < 0.999)), "saturated heads hide differences"
    assert np.ptp(list(plain_keras.whole.values())) > 0.2


def test_predict_equals_reader_engine_and_head(predicted: dict[str, float], stages: Stages) -> None:
    assert_near(predicted, name_rows(stages.from_engine), TOLERANCE)


def test_predict_equals_reader_keras_backbone_and_head(predicted: dict[str, float], stages: Stages) -> None:
    assert_near(predicted, name_rows(stages.from_keras), TOLERANCE)


def test_predict_is_near_the_head_on_stored_features(predicted: dict[str, float], stages: Stages) -> None:
    assert_near(predicted, name_rows(stages.from_store), 1e-3)


def test_stored_features_are_those_of_the_engine_rounded_to_float16(stages: Stages) -> None:
    rounded, _ = round_features(stages.engine_features)
    for name, stored, expected in zip(NAMES, stages.stored_features, rounded, strict=True):
        np.testing.assert_array_equal(stored, expected, err_msg=name)


def test_predict_and_extraction_prepare_the_same_pixels(extracted: Extracted, stages: Stages) -> None:
    for kind, prepared in zip(ACCEPTED, stages.prepared, strict=True):
        data = (extracted.folder / locate(kind)).read_bytes()
        np.testing.assert_array_equal(prepare_pixels(decode_image(data), 75), prepared, err_msg=kind.name)


def test_plain_keras_on_whole_and_resized_pictures_equals_predict(
    predicted: dict[str, float], plain_keras: PlainKeras
) -> None:
    assert_near(plain_keras.whole, predicted, TOLERANCE)
    assert_near(plain_keras.whole, plain_keras.resized, TOLERANCE)


def test_compiled_export_accepts_pictures_of_all_shapes_in_turn(exported: Exported, plain_keras: PlainKeras) -> None:
    by_shape = {
        picture.shape: (name, picture) for name, picture in ((k.name, decode_image(k.make())) for k in ACCEPTED)
    }
    outputs = run_export(exported.model, [picture for _, picture in by_shape.values()])[:, 0]
    expected = [plain_keras.whole[name] for name, _ in by_shape.values()]
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=TOLERANCE)


def test_export_checks_itself_on_every_accepted_kind(exported: Exported) -> None:
    assert exported.result["num_pictures"] == len(ACCEPTED)
    assert exported.result["max_difference"] <= TOLERANCE
    assert exported.result["num_flipped"] == 0


def test_export_with_fewer_max_pixels_than_the_pictures_have_is_refused(
    extracted: Extracted, exported: Exported, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(HeadstartError) as caught:
        export(ExportConfig(exported.run, tmp_path, max_pixels=1000), quiet)
    assert Path(str(caught.value.where)).is_relative_to(extracted.folder)
    assert "40 x 30" in caught.value.got
    assert "1,000" in caught.value.got
    assert not list(tmp_path.iterdir())


def test_export_pictures_of_max_pixels_are_read_and_larger_ones_refused(extracted: Extracted, quiet: Console) -> None:
    plain = next(kind for kind in ACCEPTED if kind.name == "plain_png")
    (example,) = [example for example in extracted.store.examples if example.path == locate(plain)]
    num_pixels = SIZE[0] * SIZE[1]
    pictures = Pictures(extracted.folder, [example], 75, io.BytesIO(), max_pixels=num_pixels)
    pictures.load(quiet)
    assert pictures.raw[0].shape == (SIZE[1], SIZE[0], 3)
    with pytest.raises(HeadstartError) as caught:
        Pictures(extracted.folder, [example], 75, io.BytesIO(), max_pixels=num_pixels - 1).load(quiet)
    assert caught.value.where == extracted.folder / example.path
    assert f"{num_pixels - 1:,}" in caught.value.got
