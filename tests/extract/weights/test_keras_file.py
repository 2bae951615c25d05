"""Recognize weights files by their content, without TensorFlow."""

from __future__ import annotations

import errno
import gzip
import os
import zipfile
from pathlib import Path

import h5py
import pytest

from base.errors import HeadstartError
from extract.weights.keras_file import check_weights_file
from tests.errors import raises
from tests.extract.weight_files import draw_small_layers, write_legacy_file

pytestmark = pytest.mark.unit


def refuse(path: Path) -> str:
    """Check a file that is not accepted, and return the description of its content."""
    with raises(HeadstartError, where=path) as caught:
        check_weights_file(path)
    return caught.value.got


def test_check_weights_file_legacy_file_of_188_layers_passes(tmp_path: Path) -> None:
    assert not check_weights_file(write_legacy_file(tmp_path / "w.h5", draw_small_layers(188)))


def test_check_weights_file_counts_only_layers_with_weights(tmp_path: Path) -> None:
    layers = [("input", []), *draw_small_layers(188), ("mixed0", [])]
    assert not check_weights_file(write_legacy_file(tmp_path / "w.h5", layers))


def test_check_weights_file_gzip_is_the_npm_package(tmp_path: Path) -> None:
    (tmp_path / "nsfwjs-4.4.0.tgz").write_bytes(gzip.compress(b"tar"))
    assert check_weights_file(tmp_path / "nsfwjs-4.4.0.tgz")


@pytest.mark.parametrize(("name", "is_valid"), [("w.weights.h5", True), ("weights.h5", False), ("weights.bin", False)])
def test_check_weights_file_of_keras_3_needs_the_name_that_keras_expects(
    tmp_path: Path, name: str, is_valid: bool
) -> None:
    with h5py.File(tmp_path / name, "w") as file:
        file.create_group("layers")
    if is_valid:
        assert not check_weights_file(tmp_path / name)
    else:
        with raises(HeadstartError, where=tmp_path / name) as caught:
            check_weights_file(tmp_path / name)
        assert caught.value.expected.endswith(" .weights.h5")


@pytest.mark.parametrize("name", ["weights.bin", "w.weights.h5"])
def test_check_weights_file_legacy_needs_the_name_that_keras_expects(tmp_path: Path, name: str) -> None:
    with raises(HeadstartError, where=tmp_path / name) as caught:
        check_weights_file(write_legacy_file(tmp_path / name, draw_small_layers(188)))
    assert caught.value.expected.endswith(" .h5")


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><title>404</title>", b"  \n<html>", b"<?xml version='1.0'?>", b"<HEAD>"]
)
def test_check_weights_file_web_page_is_refused_as_web_page(tmp_path: Path, page: bytes) -> None:
    (tmp_path / "w.h5").write_bytes(page)
    assert "web page" in refuse(tmp_path / "w.h5")


def test_check_weights_file_empty_file_is_refused_as_empty(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"")
    assert "empty" in refuse(tmp_path / "w.h5")


def test_check_weights_file_zip_file_is_refused_as_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "zip" in refuse(tmp_path / "model.keras")


def test_check_weights_file_unknown_bytes_are_refused_with_the_first_ones(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"\x80\x02pickled and more")
    assert repr(b"\x80\x02pickle") in refuse(tmp_path / "w.h5")


@pytest.mark.parametrize("kept", [100, 40_000, -1])
def test_check_weights_file_truncated_hdf5_file_is_refused_with_its_size(tmp_path: Path, kept: int) -> None:
    whole = write_legacy_file(tmp_path / "whole.h5", draw_small_layers(188)).read_bytes()
    (tmp_path / "w.h5").write_bytes(whole[:kept])
    assert f"{len(whole[:kept]):,}" in refuse(tmp_path / "w.h5")


@pytest.mark.parametrize("num_layers", [16, 189])
def test_check_weights_file_legacy_with_other_layers_is_refused_with_their_number(
    tmp_path: Path, num_layers: int
) -> None:
    path = write_legacy_file(tmp_path / "w.h5", draw_small_layers(num_layers))
    got = refuse(path)
    assert str(num_layers) in got
    assert (" top" in got) is (num_layers == 189)


def test_check_weights_file_other_hdf5_file_is_refused_with_its_members(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["images"], file["labels"] = [1, 2], [3]
    assert "images, labels" in refuse(tmp_path / "w.h5")


def test_check_weights_file_empty_hdf5_file_is_refused(tmp_path: Path) -> None:
    h5py.File(tmp_path / "w.h5", "w").close()
    assert "HDF5" in refuse(tmp_path / "w.h5")


def test_check_weights_file_missing_file_is_refused_with_the_reason_of_the_system(tmp_path: Path) -> None:
    assert refuse(tmp_path / "w.h5") == os.strerror(errno.ENOENT)
