"""Extraction, the export's check, `predict` and plain Keras see the same in every kind that is accepted."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from extract.backbone import join_cuts
from extract.config import EngineName, ExtractConfig, Precision
from extract.decode import Pixels, decode_image
from extract.engines import build_engine, count_cores, plan_streams
from extract.loop import load_image
from extract.pixels import prepare_pixels, resize_pixels
from extract.views import compile_views
from features.schema import Features, round_features
from features.store import FeatureStore
from tests.inputs.commands import Done
from tests.inputs.conftest import Everything, Exported
from tests.inputs.kinds import ACCEPTED, Kind
from tests.train_head.synthetic import run_export
from train_head.data.batches import Array
from train_head.data.split import split_examples
from train_head.export.parity import TOLERANCE
from train_head.finetuning.backbone import rebuild_backbone
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.solvers.head import expand_probabilities, restore_head

each = pytest.mark.parametrize("kind", ACCEPTED, ids=lambda kind: kind.name)


@dataclass(frozen=True)
class Seen:
    """What extraction's own path gives for each accepted kind, row by row."""

    rows: dict[str, int]
    """By the name of the kind."""
    prepared: Array
    """By extraction's reader."""
    engine_features: Array
    stored: Features
    by_engine: Array
    """Probabilities of both classes: extraction's engine, then the head."""
    by_keras: Array
    """Backbone and head as the export's check has them."""
    by_store: Array
    """The head on what training saw."""


@pytest.fixture(scope="module")
def seen(
    everything: Everything, export_of_everything: Exported, predicting: subprocess.Popen[bytes], quiet: Console
) -> Seen:
    store, run = FeatureStore(everything.store), Run(export_of_everything.model.parents[1] / "run")
    by_path = {example.path: example for example in store.examples}
    names = [kind.name for kind in ACCEPTED if everything.place(kind.name) in by_path]
    examples = [by_path[everything.place(name)] for name in names]
    images = {image.path: image for image in store.images}
    config, prepare = ExtractConfig(everything.folder, everything.store), compile_views(75, 0)
    loaded = [load_image(images[example.path], config, prepare, lambda *_: [0]) for example in examples]
    assert [image.content_hash for image in loaded] == [example.content_hash for example in examples]
    prepared = np.stack([image.views[0] for image in loaded])
    backbone = rebuild_backbone(store, "", quiet)
    streams = plan_streams(count_cores(0))
    engine = build_engine(EngineName.TENSORFLOW, Precision.FLOAT32, join_cuts([backbone]), streams)
    (engine_features,) = engine.run(prepared)
    split = split_examples(store.examples, float(run.record.config["validation_split"]))
    head = restore_head(expand_head(run, store, split.validation, quiet), store.feature_shape, 2, run.dropout)

    def judge(features: NDArray[Any]) -> Array:
        return expand_probabilities(head.predict_on_batch(features.astype(np.float32)))

    stored = store.read(examples)
    return Seen(
        {name: row for row, name in enumerate(names)},
        prepared,
        engine_features,
        stored,
        judge(engine_features),
        judge(backbone.predict_on_batch(prepared)),
        judge(stored),
    )


@dataclass(frozen=True)
class Plain:
    """What the exported model says in plain Keras: (dogs,) for each accepted kind."""

    whole: dict[str, float]
    """Of the decoded picture as it is."""
    resized: dict[str, float]
    """Of the picture that extraction resized."""


@pytest.fixture(scope="module")
def plain(export_of_everything: Exported, predicting: subprocess.Popen[bytes]) -> Plain:
    import keras

    model = keras.saving.load_model(export_of_everything.model)
    pixels: dict[str, Pixels] = {}
    for kind in ACCEPTED:
        try:
            pixels[kind.name] = decode_image(kind.make())
        except Exception:
            continue  # It has a test of its own that fails.
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, picture in pixels.items():
        by_shape.setdefault(picture.shape, []).append(name)
    whole: dict[str, float] = {}
    for names in by_shape.values():
        outputs = model(np.stack([pixels[name] for name in names]).astype(np.float32))
        whole |= dict(zip(names, np.asarray(outputs)[:, 0].tolist(), strict=True))
    resized = np.asarray(model(np.stack([resize_pixels(picture, 75) for picture in pixels.values()])))
    return Plain(whole, dict(zip(pixels, resized[:, 0].tolist(), strict=True)))


def find_probability(everything: Everything, predicted: Done, kind: Kind) -> float:
    """The probability of dogs that the command says."""
    path = str(everything.folder / everything.place(kind.name))
    (found,) = [found for found in predicted.result["predictions"] if found["image"] == path]
    assert 0.5 <= found["probability"] <= 1
    return float(found["probability"] if found["label"] == "dogs" else 1 - found["probability"])


def test_predictions_of_the_kinds_differ_by_far_more_than_the_tolerance(seen: Seen, plain: Plain) -> None:
    dogs = seen.by_keras[:, 1]
    assert len(dogs) == len(seen.rows)
    assert np.ptp(dogs) > 0.2
    assert np.all((dogs > 0.001) & (dogs < 0.999)), "where it saturates, every feature gives the same"
    assert np.ptp(list(plain.whole.values())) > 0.2


@each
def test_predict_equals_extractions_reader_backbone_and_head(
    everything: Everything, predicted: Done, seen: Seen, kind: Kind
) -> None:
    found = find_probability(everything, predicted, kind)
    row = seen.rows[kind.name]
    assert abs(found - seen.by_engine[row, 1]) <= TOLERANCE == 1e-5
    assert abs(found - seen.by_keras[row, 1]) <= TOLERANCE


@each
def test_predict_is_near_what_the_head_says_of_the_stored_feature(
    everything: Everything, predicted: Done, seen: Seen, kind: Kind
) -> None:
    found = find_probability(everything, predicted, kind)
    assert abs(found - seen.by_store[seen.rows[kind.name], 1]) <= 1e-3


@each
def test_stored_feature_is_the_engines_rounded_to_float16(seen: Seen, kind: Kind) -> None:
    row = seen.rows[kind.name]
    rounded, _ = round_features(seen.engine_features[row : row + 1])
    np.testing.assert_array_equal(seen.stored[row], rounded[0])


@each
def test_predicts_pixels_are_those_that_extraction_prepared(everything: Everything, seen: Seen, kind: Kind) -> None:
    data = (everything.folder / everything.place(kind.name)).read_bytes()
    np.testing.assert_array_equal(prepare_pixels(decode_image(data), 75), seen.prepared[seen.rows[kind.name]])


@each
def test_plain_keras_on_the_whole_picture_equals_predict_and_the_resized_picture(
    everything: Everything, predicted: Done, plain: Plain, kind: Kind
) -> None:
    found = find_probability(everything, predicted, kind)
    assert abs(plain.whole[kind.name] - found) <= TOLERANCE
    assert abs(plain.whole[kind.name] - plain.resized[kind.name]) <= TOLERANCE


def test_export_checked_itself_on_every_accepted_kind(everything: Everything, export_of_everything: Exported) -> None:
    store = FeatureStore(everything.store)
    num_pictures = sum(example.split == "validation" for example in store.examples)
    assert export_of_everything.result["num_pictures"] == num_pictures > 60
    assert export_of_everything.result["max_difference"] <= TOLERANCE
    assert export_of_everything.result["num_flipped"] == 0


def test_exported_model_takes_pictures_of_all_shapes_together(
    everything: Everything, export_of_everything: Exported, plain: Plain
) -> None:
    pictures = {name: decode_image((everything.folder / everything.place(name)).read_bytes()) for name in plain.whole}
    outputs = run_export(export_of_everything.model, pictures.values())[:, 0]
    np.testing.assert_allclose(outputs, list(plain.whole.values()), rtol=0, atol=TOLERANCE)
