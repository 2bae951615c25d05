"""Telling weights files apart by their content, and reading the legacy layout."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import h5py
import pytest

from base.errors import HeadstartError
from extract.weights.keras_file import check_weights_file
from tests.extract.weight_files import draw_small_layers, write_legacy_file


def refuse(path: Path) -> str:
    with pytest.raises(HeadstartError) as raised:
        check_weights_file(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: expected ")
    return message.split(", got ", 1)[1]


def test_detect_legacy_file_of_188_layers_is_legacy(tmp_path: Path) -> None:
    assert not check_weights_file(write_legacy_file(tmp_path / "w.h5", draw_small_layers(188)))


def test_detect_legacy_file_counts_only_layers_with_weights(tmp_path: Path) -> None:
    layers = [("input", []), *draw_small_layers(188), ("mixed0", [])]
    assert not check_weights_file(write_legacy_file(tmp_path / "w.h5", layers))


def test_detect_legacy_file_that_the_tests_write_in_full_is_legacy(legacy_file: Path) -> None:
    assert not check_weights_file(legacy_file)


def test_detect_file_that_keras_saves_is_keras3(keras3_file: Path) -> None:
    assert not check_weights_file(keras3_file)


def test_detect_gzip_file_is_the_npm_package(tmp_path: Path) -> None:
    (tmp_path / "nsfwjs-4.4.0.tgz").write_bytes(gzip.compress(b"tar"))
    assert check_weights_file(tmp_path / "nsfwjs-4.4.0.tgz")


def test_detect_keras3_file_under_another_name_asks_to_rename_it(keras3_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.symlink_to(keras3_file)
    with pytest.raises(HeadstartError) as raised:
        check_weights_file(path)
    assert (raised.value.where, raised.value.expected) == (path, "a name ending in .weights.h5")


@pytest.mark.parametrize("name", ["weights.bin", "w.weights.h5"])
def test_detect_legacy_file_under_another_name_asks_to_rename_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(HeadstartError) as raised:
        check_weights_file(write_legacy_file(tmp_path / name, draw_small_layers(188)))
    assert (raised.value.where, raised.value.expected) == (tmp_path / name, "a name ending in .h5")


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><title>404</title>", b"  \n<html>", b"<?xml version='1.0'?>", b"<HEAD>"]
)
def test_detect_web_page_says_that_it_is_one(tmp_path: Path, page: bytes) -> None:
    (tmp_path / "w.h5").write_bytes(page)
    assert refuse(tmp_path / "w.h5").startswith("a web page (an error page saved under the file's name?). ")


def test_detect_empty_file_says_so_and_names_the_file_to_get(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"")
    assert refuse(tmp_path / "w.h5") == (
        "an empty file. Give the file named *_notop.h5 (188 layers with weights) with --weights (WEIGHTS=)."
    )


def test_detect_zip_file_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert refuse(tmp_path / "model.keras").startswith("a zip file (a whole .keras model?). ")


def test_detect_foreign_bytes_shows_how_they_start(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"\x80\x02pickled and more")
    assert refuse(tmp_path / "w.h5").startswith("a file that starts with b'\\x80\\x02pickle'. ")


@pytest.mark.parametrize("kept", [100, 40_000, -1])
def test_detect_truncated_hdf5_file_says_cut_off_and_its_size(tmp_path: Path, kept: int) -> None:
    whole = write_legacy_file(tmp_path / "whole.h5", draw_small_layers(188)).read_bytes()
    (tmp_path / "w.h5").write_bytes(whole[:kept])
    size = len(whole[:kept])
    assert refuse(tmp_path / "w.h5").startswith(f"an HDF5 file of {size:,} bytes that is cut off or damaged (")


def test_detect_legacy_file_with_a_top_says_so(tmp_path: Path) -> None:
    path = write_legacy_file(tmp_path / "w.h5", draw_small_layers(189))
    assert refuse(path).startswith("a legacy file of 189 layers with weights (it has a top). ")


def test_detect_legacy_file_of_another_model_says_how_many_layers_it_has(tmp_path: Path) -> None:
    path = write_legacy_file(tmp_path / "w.h5", draw_small_layers(16))
    assert refuse(path).startswith("a legacy file of 16 layers with weights. ")


def test_detect_other_hdf5_file_names_what_is_in_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["images"], file["labels"] = [1, 2], [3]
    assert refuse(tmp_path / "w.h5").startswith("an HDF5 file with images, labels in it. ")


def test_detect_hdf5_file_with_nothing_in_it_says_so(tmp_path: Path) -> None:
    h5py.File(tmp_path / "w.h5", "w").close()
    assert refuse(tmp_path / "w.h5").startswith("an HDF5 file with nothing in it. ")


def test_detect_missing_file_gives_the_systems_reason(tmp_path: Path) -> None:
    assert refuse(tmp_path / "w.h5") == "No such file or directory. Check the path."
