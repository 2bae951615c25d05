"""Distance to the nearest class as Keras layers: equal to NumPy, alone, in an exported model and beside one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from base.errors import UsageError
from base.terminal import Console
from extract.backbone import cut_backbone
from features.options import Pool
from tests.errors import raises
from tests.train_head.export.conftest import CUT
from tests.train_head.export.edits import assert_refused, read_members, remove_digest, write_members
from tests.train_head.synthetic import draw_classes, draw_distance, make_small_card
from tests.train_head.training import rewrite_manifest
from train_head.export.config import ExportConfig
from train_head.export.distance import DISTANCE_NAME, build_distance, encode_arrays, list_arrays, measure_features
from train_head.export.load import compile_outputs, load_export
from train_head.export.stitch import save_model, stitch
from train_head.export.write import export_run
from train_head.runs.card import read_card
from train_head.runs.read import Run
from train_head.runs.record import OUTLIERS_FILE
from train_head.solvers.head import build_head


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("shape", [(4, 5, 6), (6,), (10,)], ids=["flat", "pooled", "last of two cuts"])
def test_build_distance_equals_numpy(shape: tuple[int, ...], num_classes: int) -> None:
    classes = draw_classes(6, num_classes)
    features = np.random.default_rng(1).gamma(1, size=(7, *shape)).astype(np.float32)
    features[0] = 0
    found = np.asarray(build_distance(shape, list_arrays(classes))(features))
    assert found.shape == (7, 1)
    np.testing.assert_allclose(found[:, 0], measure_features(classes, features), rtol=1e-4)


def test_build_distance_with_arrays_that_do_not_fit_is_value_error() -> None:
    arrays = list_arrays(draw_classes(6))
    scalar, longer = np.zeros((), np.float32), np.zeros(9, np.float32)
    for shape, given in (
        ((5,), arrays),
        ((6,), arrays[::-1]),
        ((6,), [*arrays[:3], longer]),
        ((6,), [scalar, *arrays[1:]]),
        ((6,), [*arrays[:2], scalar, arrays[3]]),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            build_distance(shape, given)


@pytest.fixture(scope="module")
def parts(whole: Any) -> tuple[Any, Any]:
    backbone = cut_backbone(whole, CUT, Pool.AVG)
    return backbone, build_head(backbone.output_shape[1:], 2, 4, 0.5, seed=4)


def test_load_export_computes_the_distance_of_either_form(parts: tuple[Any, Any], tmp_path: Path) -> None:
    backbone, head = parts
    arrays = list_arrays(draw_classes(256))
    card = replace(make_small_card(2), cut=CUT, pool="avg", outlier_threshold=3.0)
    with_output = stitch(backbone, head, 75, draw_distance(backbone))
    save_model(with_output, card, tmp_path / "output.keras")
    save_model(stitch(backbone, head, 75), card, tmp_path / "plain.keras", {DISTANCE_NAME: encode_arrays(arrays)})
    images = np.random.default_rng(0).uniform(0, 255, (2, 90, 80, 3)).astype(np.float32)
    expected = with_output(images)
    for name in ("output", "plain"):
        path = tmp_path / f"{name}.keras"
        found = compile_outputs(load_export(path)[1])(images)
        np.testing.assert_allclose(found.probabilities, expected["probability"], atol=1e-6)
        assert found.distances is not None
        np.testing.assert_allclose(found.distances, np.asarray(expected["distance"])[:, 0], rtol=1e-4)
        assert read_card(path).outlier_threshold == 3.0
    older = remove_digest(tmp_path / "plain.keras", tmp_path / "older.keras")
    for changed in (arrays[:3], [*arrays[:3], np.zeros(5, np.float32)]):
        data = encode_arrays(changed) if len(changed) == 4 else b"not HDF5"
        assert_refused(write_members(tmp_path / "bad.keras", read_members(older) | {DISTANCE_NAME: data}))


def test_export_with_outlier_score_and_without_give_the_same_predictions(
    early_run: Path, shared_pictures: Path, tmp_path: Path, quiet: Console
) -> None:
    found = {}
    for is_output in (False, True):
        result = export_run(ExportConfig(early_run, tmp_path / f"{is_output}", outlier_score=is_output), quiet)
        assert result.parity.max_distance_difference <= 1e-3
        assert result.parity.max_stored_distance_difference > 0
        found[is_output] = hs.predict(result.files[0], shared_pictures / "validation")
        output = result.load().output
        assert set(output) == {"probability", "distance"} if is_output else output.shape == (None, 1)
    threshold = Run(early_run).metrics["outliers"]["threshold"]
    for plain, scored in zip(found[False], found[True], strict=True):
        assert plain.distance is not None
        assert plain.distance == pytest.approx(scored.distance, rel=1e-3)
        assert plain.is_outlier is (plain.distance > threshold)
    assert found[False].outlier_threshold == threshold
    assert found[False].to_json()["predictions"][0]["distance"] == found[False][0].distance


def test_export_of_a_run_without_detector_has_no_distance(run: Path, tmp_path: Path, quiet: Console) -> None:
    (run / OUTLIERS_FILE).unlink()
    rewrite_manifest(run)
    with raises(UsageError, where="--outlier-score"):
        export_run(ExportConfig(run, tmp_path / "out", outlier_score=True), quiet)
    result = export_run(ExportConfig(run, tmp_path / "out"), quiet)
    assert read_card(result.files[0]).outlier_threshold is None
    assert DISTANCE_NAME not in read_members(result.files[0])
