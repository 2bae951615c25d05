"""Extraction and prediction accept the same kinds of pictures, and refuse the others for the same reasons."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from extract.__main__ import NUM_ROWS
from features.schema import ImageStatus
from tests.commands import CommandResult, run_command
from tests.inputs.conftest import Extracted, locate
from tests.inputs.folders import SMALL, list_predicted, list_reasons
from tests.inputs.kinds import ACCEPTED, KINDS, REFUSED
from tests.inputs.makers import SIZE
from tests.pictures import draw_picture, encode

NUM_PIXELS = SIZE[0] * SIZE[1]


@pytest.fixture(scope="module")
def predicted(extracted: Extracted, tiny_model: Path) -> CommandResult:
    """Result of the prediction of every kind."""
    command = ["train_head.predict.__main__", "--model", tiny_model, extracted.folder / "validation", "--json"]
    return run_command(*map(str, command))


def test_extract_accepted_kinds_are_stored(extracted: Extracted) -> None:
    images = {image.path: image for image in extracted.store.images}
    examples = {example.path: example for example in extracted.store.examples if example.split == "validation"}
    assert sorted(examples) == sorted(map(locate, ACCEPTED))
    for path, example in examples.items():
        assert (images[path].status, images[path].reason, images[path].split) == (ImageStatus.DONE, "", "validation")
        assert images[path].content_hash == example.content_hash


def test_extract_refused_kinds_are_failed_with_their_reasons(extracted: Extracted) -> None:
    images = {image.path: image for image in extracted.store.images}
    assert sorted(extracted.reasons) == sorted(map(locate, REFUSED))
    for kind in REFUSED:
        image, reason = images[locate(kind)], extracted.reasons[locate(kind)]
        assert kind.reason is not None
        assert kind.reason in reason
        assert (image.status, image.reason, image.content_hash) == (ImageStatus.FAILED, reason, None)


def test_extract_counts_every_file_once(extracted: Extracted) -> None:
    result = extracted.command.json
    assert (result["images"], result["skipped"], result["error"]) == (16 + len(KINDS), [], "")
    assert result["computed"] == 16 + len(ACCEPTED)
    assert len(result["failed"]) == len(REFUSED)


def test_extract_table_lists_some_failed_pictures_with_their_reasons_and_counts_the_others(
    extracted: Extracted,
) -> None:
    rows = [line for line in extracted.command.err.splitlines() if line.startswith("│")]
    listed = [path for path in extracted.reasons if any(f" {path} " in row for row in rows)]
    assert len(listed) == NUM_ROWS < len(REFUSED)
    for path in listed:
        (row,) = [row for row in rows if f" {path} " in row]
        assert extracted.reasons[path] in row
    assert len([row for row in rows if f" {len(REFUSED) - NUM_ROWS} " in row]) == 1
    assert f" {len(REFUSED)} " in extracted.command.warnings[0]


def test_predict_refuses_the_same_kinds_as_extract_for_the_same_reasons(
    extracted: Extracted, predicted: CommandResult
) -> None:
    assert list_reasons(predicted.json["failed"], folder=extracted.folder) == extracted.reasons


def test_predict_with_refused_kinds_fails_and_classifies_the_others(
    extracted: Extracted, predicted: CommandResult
) -> None:
    assert predicted.status == 1
    examples = [example.path for example in extracted.store.examples if example.split == "validation"]
    assert list_predicted(predicted.json, extracted.folder) == examples
    assert predicted.json["skipped"] == []


# --max-pixels.


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two pictures of each class, all of NUM_PIXELS pixels; must not be changed."""
    folder = tmp_path_factory.mktemp("few")
    for label in ("cats", "dogs"):
        (folder / label).mkdir()
        for number in range(2):
            (folder / label / f"{number}.png").write_bytes(encode(draw_picture(label, number, SIZE)))
    return folder


def test_extract_max_pixels_is_the_largest_accepted_number(few: Path, tmp_path: Path) -> None:
    options = ["--images", few, "--store", tmp_path / "store", *SMALL, "--max-bad", 1, "--json"]
    result = run_command("extract.__main__", *options, "--max-pixels", NUM_PIXELS - 1)
    assert (result.status, result.json["computed"]) == (0, 0)
    reasons = list_reasons(result.json["failed"])
    assert len(reasons) == 4
    assert all("40 x 30" in reason and "1,199" in reason for reason in reasons.values())
    result = run_command("extract.__main__", *options, "--max-pixels", NUM_PIXELS)
    assert (result.json["computed"], result.json["failed"]) == (4, [])


def test_predict_max_pixels_is_the_largest_accepted_number(few: Path, tiny_model: Path) -> None:
    options = ["--model", tiny_model, few, "--json"]
    result = run_command("train_head.predict.__main__", *options, "--max-pixels", NUM_PIXELS - 1)
    assert (result.status, result.json["predictions"]) == (1, [])
    reasons = list_reasons(result.json["failed"])
    assert len(reasons) == 4
    assert all("40 x 30" in reason and "1,199" in reason for reason in reasons.values())
    result = run_command("train_head.predict.__main__", *options, "--max-pixels", NUM_PIXELS)
    assert (result.status, result.json["failed"]) == (0, [])
    assert Counter(found["label"] for found in result.json["predictions"]) == {"cats": 2, "dogs": 2}
