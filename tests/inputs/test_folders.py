"""Files in folders: what is no picture by its name, what is hidden, links, and trees that are deep."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from extract.__main__ import extract
from extract.config import MAX_PIXELS
from extract.decode import MAX_BYTES_PER_PIXEL
from extract.images.scan import scan_images
from tests.inputs.commands import Done
from tests.inputs.folders import configure, draw_new, list_reasons, list_stored, predict_all, put_pictures, run_here
from train_head.predict.classify import list_pictures

NOT_DECODED = "a picture of a kind that is not decoded ({}); convert it to JPEG or PNG"
SKIPPED = {
    ".thumbs": "a hidden folder, with 1 pictures",
    "cats/README": "not a picture by its name (no extension)",
    "cats/camera.dng": NOT_DECODED.format(".dng"),
    "cats/film.jp2": NOT_DECODED.format(".jp2"),
    "cats/gone.jpg": "No such file or directory",
    "cats/loop.jpg": "Too many levels of symbolic links",
    "cats/nested/again": "a link back to a folder that it is in",
    "cats/next.AVIF": NOT_DECODED.format(".AVIF"),
    "cats/notes.txt": "not a picture by its name (.txt)",
    "cats/phone.heic": NOT_DECODED.format(".heic"),
    "cats/vector.svg": NOT_DECODED.format(".svg"),
    "dogs/above": "a link back to a folder that it is in",
    "dogs/pipe.jpg": "not a regular file",
    "stray.jpg": "not in a class folder",
}
TAKEN = [
    ("cats/000.jpg", "cats"),
    ("cats/001.jpg", "cats"),
    ("cats/nested/deeper/deepest/000.jpg", "cats"),
    ("dogs/000.jpg", "dogs"),
    ("dogs/001.jpg", "dogs"),
    ("dogs/cats/000.jpg", "dogs"),
    ("dogs/linked.jpg", "dogs"),
]
ENDLESS = f"{8 * 89_000_000 + 1:,} bytes, more than a picture of 89,000,000 pixels"


# A folder as people have them.


@dataclass(frozen=True)
class Untidy:
    folder: Path
    store: Path
    extract: Done


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Untidy:
    folder = tmp_path_factory.mktemp("untidy") / "pictures"
    put_pictures(folder, [path for path, _ in TAKEN if path != "dogs/linked.jpg"])
    for number, hidden in enumerate([".hidden.jpg", "._000.jpg", "__MACOSX/1.jpg", ".thumbs/2.jpg", ".kept.heic"]):
        for place in (folder, folder / "cats", folder / "cats/nested"):
            (place / hidden).parent.mkdir(exist_ok=True)
            (place / hidden).write_bytes(draw_new(number))
    for name in ("phone.heic", "next.AVIF", "vector.svg", "film.jp2", "camera.dng", "notes.txt", "README"):
        (folder / "cats" / name).write_bytes(draw_new(9))
    (folder / "stray.jpg").write_bytes(draw_new(10))
    (folder / "cats/gone.jpg").symlink_to("nowhere.jpg")
    (folder / "cats/loop.jpg").symlink_to("loop.jpg")
    (folder / "cats/nested/again").symlink_to("..")
    (folder / "dogs/above").symlink_to(folder)
    os.mkfifo(folder / "dogs/pipe.jpg")
    (folder.parent / "elsewhere").write_bytes(draw_new(11, "dogs"))
    (folder / "dogs/linked.jpg").symlink_to(folder.parent / "elsewhere")
    with (folder / "dogs/endless.bmp").open("wb") as file:
        file.truncate(MAX_BYTES_PER_PIXEL * MAX_PIXELS + 1)
    store = folder.parent / "store"
    return Untidy(folder, store, run_here(extract, configure(folder, store)))


def test_extract_links_and_other_files_are_skipped_each_once_with_its_reason(untidy: Untidy) -> None:
    assert untidy.extract.status == 0, untidy.extract.err
    skipped = untidy.extract.result["skipped"]
    assert [(file["path"], file["reason"]) for file in skipped] == list(SKIPPED.items())
    for path, reason in SKIPPED.items():
        assert untidy.extract.err.splitlines().count(f"skipped {path}: {reason}") == 1


def test_extract_kinds_that_are_not_decoded_are_warned_of(untidy: Untidy) -> None:
    reason = NOT_DECODED.format(".dng")
    line = f"warning: 5 pictures are skipped, such as cats/camera.dng: {reason}"
    assert untidy.extract.err.splitlines().count(line) == 1


def test_extract_counts_skipped_files_by_reason_at_the_end(untidy: Untidy) -> None:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in untidy.extract.err.splitlines()]
    reasons = list(SKIPPED.values())
    for reason in set(reasons):
        assert cells.count(["", f"{reasons.count(reason)} {reason}"]) == 1
    assert ["skipped files", str(len(SKIPPED))] in cells


def test_extract_nested_and_linked_pictures_belong_to_the_class_above(untidy: Untidy) -> None:
    assert list_stored(untidy.store) == TAKEN


def test_extract_hidden_files_are_not_looked_at(untidy: Untidy) -> None:
    assert not {"._", "__MACOSX", "kept"} & set(untidy.extract.out.replace("/", " ").split())
    for part in (".hidden", "._000", "__MACOSX", "cats/.thumbs", ".kept"):
        assert part not in untidy.extract.out + untidy.extract.err
    assert untidy.extract.result["images"] == len(TAKEN) + 1


def test_extract_file_larger_than_any_allowed_picture_is_refused(untidy: Untidy) -> None:
    assert untidy.extract.reasons == {"dogs/endless.bmp": ENDLESS}


def test_predict_takes_what_extract_does_and_accounts_for_the_others_once(untidy: Untidy, tiny_model: Path) -> None:
    result = predict_all(tiny_model, untidy.folder)
    images = [found["image"].removeprefix(f"{untidy.folder}/") for found in result["predictions"]]
    assert images == ["cats/000.jpg", "cats/001.jpg", *(path for path, _ in TAKEN[2:]), "stray.jpg"]
    failed = list_reasons(result["failed"], folder=untidy.folder)
    skipped = list_reasons(result["skipped"], folder=untidy.folder)
    assert failed["dogs/endless.bmp"] == ENDLESS
    assert not failed.keys() & skipped.keys()
    assert sorted([*failed, *skipped]) == sorted([*SKIPPED.keys() - {"stray.jpg", ".thumbs"}, "dogs/endless.bmp"])
    for path, reason in (failed | skipped).items():
        assert path == "dogs/endless.bmp" or reason.removeprefix("cannot be read: ") == SKIPPED[path]


def test_predict_warns_of_kinds_that_are_not_decoded(
    untidy: Untidy, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_all(tiny_model, untidy.folder / "cats")
    assert "warning: 5 pictures are skipped, such as " in capsys.readouterr().err


def test_extract_and_predict_skip_headstarts_own_folders_alike(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["cats/1.jpg", "dogs/2.jpg"])
    (tmp_path / "work/run").mkdir(parents=True)
    for name in ("run.json", "head.npz", "curves.png"):
        (tmp_path / "work/run" / name).write_bytes(draw_new(12))
    scan = scan_images(tmp_path)
    paths, skipped = list_pictures([tmp_path])
    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert paths == [tmp_path / "cats/1.jpg", tmp_path / "dogs/2.jpg"]
    assert [found.reason for found in scan.skipped] == [file.reason for file in skipped] == ["Headstart's own run"]


ROWS: dict[str, Callable[..., None]] = {
    "a file larger than 8 bytes for each of those pixels, and than 64 MiB": (
        test_extract_file_larger_than_any_allowed_picture_is_refused
    ),
    "hidden files, `._*`, `__MACOSX`": test_extract_hidden_files_are_not_looked_at,
    "a hidden folder in the place of a class": (
        test_extract_links_and_other_files_are_skipped_each_once_with_its_reason
    ),
    "Headstart's own folders: a store, a run, an exported model, a sweep, a comparison": (
        test_extract_and_predict_skip_headstarts_own_folders_alike
    ),
    "`.heic`, `.avif`, `.svg`, `.jp2`, camera raw and others like them": (
        test_extract_kinds_that_are_not_decoded_are_warned_of
    ),
    "any other extension, a file outside a class folder": test_extract_counts_skipped_files_by_reason_at_the_end,
    "folders nested deeper than their class": test_extract_nested_and_linked_pictures_belong_to_the_class_above,
}
"""Rows of docs/inputs.md that are tested here, each with one of its tests."""
