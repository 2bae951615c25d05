"""Every kind of picture: taken or refused by extraction and `predict` alike, as the table of docs/inputs.md says."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError
from base.terminal import Console
from extract.__main__ import extract
from extract.config import MAX_PIXELS
from extract.decode import decode_image
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.inputs.commands import Done
from tests.inputs.conftest import Everything
from tests.inputs.folders import configure, run_here
from tests.inputs.kinds import ACCEPTED, KINDS, REFUSED, Kind
from tests.inputs.makers import SIZE
from tests.pictures import draw_picture, encode
from train_head.config import MAX_PIXELS as MAX_PIXELS_OF_STAGE_TWO
from train_head.config import ExportConfig, PredictConfig
from train_head.export.__main__ import export
from train_head.export.pictures import Pictures
from train_head.predict.__main__ import predict

by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
refused = pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.name)
accepted = pytest.mark.parametrize("kind", ACCEPTED, ids=lambda kind: kind.name)


def test_kinds_have_names_files_and_bytes_of_their_own() -> None:
    assert len({kind.name for kind in KINDS}) == len({kind.file_name for kind in KINDS}) == len(KINDS)
    contents = [kind.make() for kind in KINDS if not kind.name.startswith("empty")]
    assert len(set(contents)) == len(contents)
    assert [kind.make() for kind in KINDS if not kind.name.startswith("empty")] == contents


# What the commands make of them.


@accepted
def test_extract_accepted_kind_is_in_the_store(everything: Everything, kind: Kind) -> None:
    path = everything.place(kind.name)
    assert path not in everything.extract.reasons
    store = FeatureStore(everything.store)
    (image,) = [image for image in store.images if image.path == path]
    assert (image.status, image.reason, image.split) == (ImageStatus.DONE, "", "validation")
    (example,) = [example for example in store.examples if example.path == path]
    assert example.content_hash == image.content_hash


@refused
def test_extract_refused_kind_is_failed_once_with_its_reason(everything: Everything, kind: Kind) -> None:
    path = everything.place(kind.name)
    (failed,) = [failed for failed in everything.extract.result["failed"] if failed["image"] == path]
    assert kind.reason is not None
    assert kind.reason in failed["reason"]
    store = FeatureStore(everything.store)
    (image,) = [image for image in store.images if image.path == path]
    assert (image.status, image.reason, image.content_hash) == (ImageStatus.FAILED, failed["reason"], None)
    assert path not in {example.path for example in store.examples}


def test_extract_accounts_for_every_file_once(everything: Everything) -> None:
    files = sorted(path.relative_to(everything.folder).as_posix() for path in everything.folder.rglob("*.*"))
    stored = [example.path for example in FeatureStore(everything.store).examples]
    assert sorted([*stored, *everything.extract.reasons]) == files
    result = everything.extract.result
    assert (result["images"], result["skipped"], result["error"]) == (len(files), [], "")
    assert result["computed"] + len(result["failed"]) == len(files)


def test_extract_table_at_the_end_names_each_bad_file_once_with_its_reason(everything: Everything) -> None:
    lines = [line for line in everything.extract.err.splitlines() if line.startswith("│")]
    for path, reason in everything.extract.reasons.items():
        (line,) = [line for line in lines if f" {path} " in line]
        assert reason in line
    num_failed = len(everything.extract.reasons)
    (warning,) = [line for line in everything.extract.err.splitlines() if line.startswith("warning: ")]
    assert f" {num_failed} " in warning


@by_name
def test_predict_takes_and_refuses_what_extract_does_for_the_same_reason(
    everything: Everything, predicted: Done, kind: Kind
) -> None:
    path = everything.place(kind.name)
    said = [found for found in predicted.result["predictions"] if found["image"] == str(everything.folder / path)]
    reason = predicted.reasons.get(str(everything.folder / path))
    assert reason == everything.extract.reasons.get(path)
    assert (reason is None) == (kind.reason is None)
    assert len(said) == (1 if kind.reason is None else 0)


def test_predict_with_refused_kinds_ends_with_status_1_and_the_others_predicted(
    everything: Everything, predicted: Done
) -> None:
    assert predicted.status == 1
    examples = [example for example in FeatureStore(everything.store).examples if example.split == "validation"]
    images = [found["image"] for found in predicted.result["predictions"]]
    assert images == [str(everything.folder / example.path) for example in examples]
    assert predicted.result["skipped"] == []


# --max-pixels.

NUM_PIXELS = SIZE[0] * SIZE[1]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four pictures of 40 x 30."""
    folder = tmp_path_factory.mktemp("few")
    for label in ("cats", "dogs"):
        (folder / label).mkdir()
        for number in range(2):
            (folder / label / f"{number}.png").write_bytes(encode(draw_picture(label, number, SIZE)))
    return folder


def test_extract_more_pixels_than_max_pixels_are_refused_and_as_many_are_not(few: Path, tmp_path: Path) -> None:
    config = configure(few, tmp_path / "store")
    found = run_here(extract, replace(config, max_pixels=1000))
    assert (found.status, found.result["computed"]) == (0, 0)
    assert list(found.reasons.values()) == ["a picture of 40 x 30 pixels, above the limit of 1,000"] * 4
    assert run_here(extract, replace(config, max_pixels=NUM_PIXELS - 1)).result["computed"] == 0
    found = run_here(extract, replace(config, max_pixels=NUM_PIXELS))
    assert (found.result["computed"], found.reasons) == (4, {})


def test_predict_more_pixels_than_max_pixels_are_refused_and_as_many_are_not(few: Path, tiny_model: Path) -> None:
    found = run_here(predict, PredictConfig([few], tiny_model, max_pixels=1000))
    assert (found.status, found.result["predictions"]) == (1, [])
    assert list(found.reasons.values()) == ["a picture of 40 x 30 pixels, above the limit of 1,000"] * 4
    assert run_here(predict, PredictConfig([few], tiny_model, max_pixels=NUM_PIXELS - 1)).status == 1
    found = run_here(predict, PredictConfig([few], tiny_model, max_pixels=NUM_PIXELS))
    assert [said["label"] for said in found.result["predictions"]] == ["cats", "cats", "dogs", "dogs"]


def test_export_more_pixels_than_max_pixels_are_refused_and_as_many_are_not(
    everything: Everything, run_folder: Path, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(HeadstartError, match=r"40 x 30 pixels, above the limit of 1,000"):
        export(ExportConfig(run_folder, tmp_path, max_pixels=1000), quiet)
    assert not list(tmp_path.iterdir())
    examples = {example.path: example for example in FeatureStore(everything.store).examples}
    plain = examples[everything.place("plain_png")]
    pictures = Pictures(everything.folder, [plain], 75, io.BytesIO(), max_pixels=NUM_PIXELS)
    pictures.load(quiet)
    assert pictures.raw[0].shape == (SIZE[1], SIZE[0], 3)
    with pytest.raises(HeadstartError, match=r"40 x 30 pixels, above the limit of 1,199"):
        Pictures(everything.folder, [plain], 75, io.BytesIO(), max_pixels=NUM_PIXELS - 1).load(quiet)


def test_max_pixels_is_89_million_everywhere() -> None:
    assert MAX_PIXELS == MAX_PIXELS_OF_STAGE_TWO == 89_000_000


# Strip by strip.


@accepted
def test_decode_in_strips_gives_what_the_whole_picture_gives(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    data = kind.make()
    whole = decode_image(data)
    monkeypatch.setattr("extract.decode._STRIP_PIXELS", 7 * whole.shape[1])
    np.testing.assert_array_equal(decode_image(data), whole)
