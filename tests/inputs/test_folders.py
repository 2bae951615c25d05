"""Files and folders that are not extracted: other extensions, hidden files, links, pipes, Headstart's own folders."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from extract.config import MAX_PIXELS
from extract.decoding.read import MAX_BYTES_PER_PIXEL
from extract.images.scan import scan_images
from features.store import FeatureStore
from tests.commands import CommandResult, run_command
from tests.inputs.folders import SMALL, draw_new, list_predicted, list_reasons, predict, put_pictures
from train_head.predict.list import list_pictures

PLACES = ("", "cats/", "cats/nested/")
HIDDEN = {".hidden.jpg": "hidden file", ".kept.heic": "hidden file", ".thumbs": "hidden folder"}
SKIPPED = {
    **{f"{place}{name}": reason for place in PLACES for name, reason in HIDDEN.items()},
    "cats/README": "without an extension",
    "cats/camera.dng": "unsupported format (.dng)",
    "cats/film.jp2": "unsupported format (.jp2)",
    "cats/gone.jpg": os.strerror(2),
    "cats/loop.jpg": "symbolic links",
    "cats/nested/again": "folder above",
    "cats/scan.DCM": "unsupported format (.DCM)",
    "cats/notes.txt": "unknown extension (.txt)",
    "cats/photo.psd": "unsupported format (.psd)",
    "cats/vector.svg": "unsupported format (.svg)",
    "dogs/above": "folder above",
    "dogs/pipe.jpg": "special file",
    "stray.jpg": "outside a class folder",
}
"""Skipped paths, with a term of each reason."""
EXTRACTED = {
    "cats/000.jpg": "cats",
    "cats/001.jpg": "cats",
    "cats/nested/deeper/deepest/000.jpg": "cats",
    "dogs/000.jpg": "dogs",
    "dogs/001.jpg": "dogs",
    "dogs/cats/000.jpg": "dogs",
    "dogs/linked.jpg": "dogs",
}
"""Extracted paths, with their classes."""
TOO_LARGE = "dogs/endless.bmp"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of SKIPPED and EXTRACTED, hidden files, and a file that is too large."""
    folder = tmp_path_factory.mktemp("untidy") / "pictures"
    put_pictures(folder, [path for path in EXTRACTED if path != "dogs/linked.jpg"])
    for number, hidden in enumerate([".hidden.jpg", "._000.jpg", "__MACOSX/1.jpg", ".thumbs/2.jpg", ".kept.heic"]):
        for place in (folder, folder / "cats", folder / "cats/nested"):
            (place / hidden).parent.mkdir(exist_ok=True)
            (place / hidden).write_bytes(draw_new(number))
    for name in ("photo.psd", "scan.DCM", "vector.svg", "film.jp2", "camera.dng", "notes.txt", "README"):
        (folder / "cats" / name).write_bytes(draw_new(9))
    (folder / "stray.jpg").write_bytes(draw_new(10))
    (folder / "cats/gone.jpg").symlink_to("nowhere.jpg")
    (folder / "cats/loop.jpg").symlink_to("loop.jpg")
    (folder / "cats/nested/again").symlink_to("..")
    (folder / "dogs/above").symlink_to(folder)
    os.mkfifo(folder / "dogs/pipe.jpg")
    (folder.parent / "elsewhere").write_bytes(draw_new(11, "dogs"))
    (folder / "dogs/linked.jpg").symlink_to(folder.parent / "elsewhere")
    with (folder / TOO_LARGE).open("wb") as file:
        file.truncate(MAX_BYTES_PER_PIXEL * MAX_PIXELS + 1)
    return folder


@dataclass(frozen=True)
class Extracted:
    """Store of the folder, and the result of the command."""

    store: Path
    command: CommandResult


@pytest.fixture(scope="module")
def extracted(folder: Path) -> Extracted:
    store = folder.parent / "store"
    options = ["--images", folder, "--store", store, *SMALL, "--max-bad", 1, "--json", "-v"]
    return Extracted(store, run_command("extract.__main__", *options))


def assert_reasons(found: dict[str, str], expected: dict[str, str]) -> None:
    """Assert the paths, each with a term of its reason."""
    assert sorted(found) == sorted(expected)
    for path, term in expected.items():
        assert term in found[path]


def is_too_large(reason: str) -> bool:
    limit = MAX_BYTES_PER_PIXEL * MAX_PIXELS
    return f"{limit + 1:,}" in reason and f"{limit:,}" in reason


@pytest.mark.unit
def test_scan_lists_each_skipped_file_once_with_its_reason(folder: Path) -> None:
    scan = scan_images(folder)
    assert {image.path: image.label for image in scan.images} == EXTRACTED | {TOO_LARGE: "dogs"}
    assert len(scan.skipped) == len(SKIPPED)
    assert_reasons({skipped.path: skipped.reason for skipped in scan.skipped}, SKIPPED)


@pytest.mark.unit
def test_list_pictures_accepts_the_files_of_a_scan_and_those_outside_class_folders(folder: Path) -> None:
    paths, skipped = list_pictures([folder])
    accepted = [Path(path).relative_to(folder).as_posix() for path in paths]
    # Broken links fail when they are read.
    assert sorted(accepted) == sorted([*EXTRACTED, TOO_LARGE, "stray.jpg", "cats/gone.jpg", "cats/loop.jpg"])
    reasons = {Path(str(file.image)).relative_to(folder).as_posix(): file.reason for file in skipped}
    assert_reasons(reasons, {path: SKIPPED[path] for path in SKIPPED.keys() - {*accepted}})


@pytest.mark.unit
def test_scan_and_list_pictures_skip_a_run_of_headstart(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["cats/1.jpg", "dogs/2.jpg"])
    (tmp_path / "work/run").mkdir(parents=True)
    for name in ("run.json", "head.npz", "curves.png"):
        (tmp_path / "work/run" / name).write_bytes(draw_new(12))
    scan = scan_images(tmp_path)
    paths, skipped = list_pictures([tmp_path])
    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert paths == [str(tmp_path / "cats/1.jpg"), str(tmp_path / "dogs/2.jpg")]
    assert [(file.path, "run" in file.reason) for file in scan.skipped] == [("work/run", True)]
    assert [file.reason for file in skipped] == [file.reason for file in scan.skipped]


def test_extract_lists_each_skipped_file_once_with_its_reason(extracted: Extracted) -> None:
    assert extracted.command.status == 0, extracted.command.err
    reasons = list_reasons(extracted.command.json["skipped"], "path")
    assert_reasons(reasons, SKIPPED)
    lines = extracted.command.err.splitlines()
    for path, reason in reasons.items():
        assert len([line for line in lines if f" {path}: " in line and line.endswith(f": {reason}")]) == 1


def test_extract_warns_about_unsupported_formats_once(extracted: Extracted) -> None:
    (warning,) = [warning for warning in extracted.command.warnings if "cats/camera.dng" in warning]
    assert " 5 " in warning


def test_extract_counts_skipped_files_by_reason(extracted: Extracted) -> None:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in extracted.command.err.splitlines()]
    for reason, count in Counter(file["reason"] for file in extracted.command.json["skipped"]).items():
        assert len([row for row in rows if row and row[-1].startswith(f"{reason}: {count}")]) == 1
    assert ["skipped files", str(len(SKIPPED))] in rows


def test_extract_labels_nested_and_linked_pictures_by_their_class_folder(extracted: Extracted) -> None:
    assert {example.path: example.label for example in FeatureStore(extracted.store).examples} == EXTRACTED


def test_extract_counts_files_of_operating_systems(extracted: Extracted) -> None:
    assert extracted.command.json["ignored"] == {"._*": len(PLACES), "__MACOSX": len(PLACES)}
    assert extracted.command.json["images"] == len(EXTRACTED) + 1


def test_extract_counts_pictures_in_hidden_folders(extracted: Extracted) -> None:
    counts = {found["path"]: found["num_pictures"] for found in extracted.command.json["skipped"]}
    assert {path for path, count in counts.items() if count == 1} == {f"{place}.thumbs" for place in PLACES}


def test_extract_file_larger_than_any_accepted_picture_is_failed(extracted: Extracted) -> None:
    ((path, reason),) = list_reasons(extracted.command.json["failed"]).items()
    assert path == TOO_LARGE
    assert is_too_large(reason)


def test_predict_accepts_the_same_files_as_extract(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = predict(tiny_model, folder)
    assert list_predicted(result, folder) == [*EXTRACTED, "stray.jpg"]
    failed, skipped = list_reasons(result["failed"], folder=folder), list_reasons(result["skipped"], folder=folder)
    assert is_too_large(failed[TOO_LARGE])
    assert not failed.keys() & skipped.keys()
    unused = {path: term for path, term in SKIPPED.items() if path != "stray.jpg"}
    assert_reasons(failed | skipped, unused | {TOO_LARGE: ""})
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert " 5 " in warning
