"""Files in folders: what is no picture by its name, what is hidden, links, and trees that are deep."""

from __future__ import annotations

import os
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

NOT_DECODED = "a picture in an unsupported format ({})"
SKIPPED = {
    ".thumbs": "a hidden folder with 1 picture",
    "cats/README": "a file without an extension",
    "cats/camera.dng": NOT_DECODED.format(".dng"),
    "cats/film.jp2": NOT_DECODED.format(".jp2"),
    "cats/gone.jpg": "an unreadable file (No such file or directory)",
    "cats/loop.jpg": "an unreadable file (Too many levels of symbolic links)",
    "cats/nested/again": "a link to a folder above it",
    "cats/next.AVIF": NOT_DECODED.format(".AVIF"),
    "cats/notes.txt": "a file with an unknown extension (.txt)",
    "cats/phone.heic": NOT_DECODED.format(".heic"),
    "cats/vector.svg": NOT_DECODED.format(".svg"),
    "dogs/above": "a link to a folder above it",
    "dogs/pipe.jpg": "a special file, such as a pipe or a device",
    "stray.jpg": "a file outside a class folder",
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
ENDLESS = "a file of 712,000,001 bytes, above the limit of 712,000,000"


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
    (line,) = [
        line for line in untidy.extract.err.splitlines() if line.startswith("warning: ") and "camera.dng" in line
    ]
    assert "5 pictures" in line


def test_extract_counts_skipped_files_by_reason_at_the_end(untidy: Untidy) -> None:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in untidy.extract.err.splitlines()]
    reasons = list(SKIPPED.values())
    for reason in set(reasons):
        assert cells.count(["", f"{reason}: {reasons.count(reason)}"]) == 1
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
        assert path == "dogs/endless.bmp" or reason == SKIPPED[path]


def test_predict_warns_of_kinds_that_are_not_decoded(
    untidy: Untidy, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_all(tiny_model, untidy.folder / "cats")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "5 pictures" in line


def test_extract_and_predict_skip_headstarts_own_folders_alike(tmp_path: Path) -> None:
    put_pictures(tmp_path, ["cats/1.jpg", "dogs/2.jpg"])
    (tmp_path / "work/run").mkdir(parents=True)
    for name in ("run.json", "head.npz", "curves.png"):
        (tmp_path / "work/run" / name).write_bytes(draw_new(12))
    scan = scan_images(tmp_path)
    paths, skipped = list_pictures([tmp_path])
    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert paths == [tmp_path / "cats/1.jpg", tmp_path / "dogs/2.jpg"]
    assert [found.reason for found in scan.skipped] == [file.reason for file in skipped] == ["a Headstart run"]
