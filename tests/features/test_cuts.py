"""Stores of several cut layers in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.command_line import CommandFailed
from base.errors import StoreMissingError, UsageError
from base.terminal import Console
from features.__main__ import CheckConfig, InfoConfig, PackConfig, check, info, pack
from features.catalog.catalog import CATALOG_NAME
from features.cuts import choose_cut_folders, list_cuts, resolve_cut
from features.maintenance.check import rebuild_catalog
from tests.errors import raises
from tests.features.stores import copy_store, flip_byte

pytestmark = pytest.mark.unit


def make_stores(folder: Path, *cuts: str) -> Path:
    for cut in cuts:
        copy_store(folder / cut, range(1), cut=cut)
    return folder


def test_list_cuts_folder_of_stores_is_sorted(tmp_path: Path) -> None:
    assert list_cuts(make_stores(tmp_path, "mixed7", "mixed5")) == ["mixed5", "mixed7"]


@pytest.mark.parametrize("name", ["store", "packed.h5", "missing", "other"])
def test_list_cuts_store_or_file_or_other_folder_is_empty(tmp_path: Path, name: str) -> None:
    copy_store(tmp_path / "store", range(1))
    copy_store(tmp_path / "store/mixed7", range(1))  # a backup
    (tmp_path / "packed.h5").write_bytes(b"")
    (tmp_path / "other/folder").mkdir(parents=True)
    assert list_cuts(tmp_path / name) == []


def test_list_cuts_store_in_a_renamed_folder_is_omitted(tmp_path: Path) -> None:
    make_stores(tmp_path, "mixed5", "mixed7")
    (tmp_path / "mixed5").rename(tmp_path / "mixed5-backup")
    assert list_cuts(tmp_path) == ["mixed7"]


@pytest.mark.parametrize("cut", ["mixed5", "mixed7"])
def test_resolve_cut_given_cut_is_a_folder(tmp_path: Path, cut: str) -> None:
    assert resolve_cut(make_stores(tmp_path, "mixed5", "mixed7"), cut) == tmp_path / cut


def test_resolve_cut_single_store_needs_no_cut(tmp_path: Path) -> None:
    assert resolve_cut(make_stores(tmp_path, "mixed5"), "") == tmp_path / "mixed5"


@pytest.mark.parametrize(("cut", "got"), [("", "none"), ("mixed6", "mixed6")])
def test_resolve_cut_missing_or_unknown_cut_is_usage_error(tmp_path: Path, cut: str, got: str) -> None:
    make_stores(tmp_path, "mixed5", "mixed7")
    with raises(UsageError, where="--cut", got=got) as caught:
        resolve_cut(tmp_path, cut)
    assert all(value in caught.value.expected for value in ("mixed5", "mixed7", str(tmp_path)))


@pytest.mark.parametrize(("name", "cut"), [("store", ""), ("store", "mixed7"), ("missing", "")])
def test_resolve_cut_store_or_missing_path_is_returned(tmp_path: Path, name: str, cut: str) -> None:
    copy_store(tmp_path / "store", range(1))
    assert resolve_cut(tmp_path / name, cut) == tmp_path / name


def test_resolve_cut_store_without_catalog_is_returned_despite_quarantine(tmp_path: Path) -> None:
    copy_store(tmp_path, range(1))
    rebuild_catalog(tmp_path)  # the first catalog is in quarantine/ now
    (tmp_path / CATALOG_NAME).unlink()
    assert resolve_cut(tmp_path, "") == tmp_path


@pytest.mark.parametrize("name", ["new", "store"])
def test_choose_cut_folders_single_cut_is_the_path(tmp_path: Path, name: str) -> None:
    copy_store(tmp_path / "store", range(1))
    assert choose_cut_folders(tmp_path / name, ["mixed7"]) == {"mixed7": tmp_path / name}


def test_choose_cut_folders_several_cuts_have_folders_in_the_given_order(tmp_path: Path) -> None:
    folders = choose_cut_folders(tmp_path / "new", ["mixed7", "mixed5"])
    assert list(folders.items()) == [("mixed7", tmp_path / "new/mixed7"), ("mixed5", tmp_path / "new/mixed5")]
    assert not (tmp_path / "new").exists()


def test_choose_cut_folders_existing_folder_of_stores_is_extended(tmp_path: Path) -> None:
    make_stores(tmp_path, "mixed5", "mixed7")
    assert choose_cut_folders(tmp_path, ["mixed7"]) == {"mixed7": tmp_path / "mixed7"}
    assert choose_cut_folders(tmp_path, ["mixed0"]) == {"mixed0": tmp_path / "mixed0"}
    (tmp_path / "mixed3/shards").mkdir(parents=True)  # left by a run that ended before it created the catalog
    (tmp_path / "mixed3/LOCK").write_bytes(b"")
    (tmp_path / "mixed5/.partial-features.h5").write_bytes(b"half")
    (tmp_path / ".DS_Store").write_bytes(b"icons")
    assert list(choose_cut_folders(tmp_path, ["mixed3", "mixed4"])) == ["mixed3", "mixed4"]


@pytest.mark.parametrize(
    ("kind", "cuts", "got"),
    [
        ("store", ["mixed5", "mixed7"], "one cut"),
        ("file", ["mixed5", "mixed7"], "file"),
        ("foreign", ["mixed5", "mixed7"], "'letters'"),
        ("mixture", ["mixed5"], "'letters'"),
    ],
)
def test_choose_cut_folders_other_content_is_an_error(tmp_path: Path, kind: str, cuts: list[str], got: str) -> None:
    copy_store(tmp_path / "store", range(1))
    (tmp_path / "file").write_bytes(b"precious")
    make_stores(tmp_path / "mixture", "mixed5")
    for folder in ("foreign", "mixture"):
        (tmp_path / folder / "letters").mkdir(parents=True)
        (tmp_path / folder / "letters/a.txt").write_text("Dear")
    with raises(StoreMissingError, where=tmp_path / kind) as caught:
        choose_cut_folders(tmp_path / kind, cuts)
    assert got in caught.value.got


def test_info_and_pack_cut_of_another_store_is_usage_error(tmp_path: Path) -> None:
    copy_store(tmp_path / "store", range(1))
    with raises(UsageError, where="--cut", got="mixed5") as caught:
        info(InfoConfig(tmp_path / "store", cut="mixed5"), Console())
    assert "mixed7" in caught.value.expected
    with raises(UsageError, where="--cut", got="mixed5"):
        pack(PackConfig(tmp_path / "store", tmp_path / "out.h5", cut="mixed5"), Console())
    assert not (tmp_path / "out.h5").exists()


def test_info_and_check_of_several_cuts_give_the_result_of_each(tmp_path: Path) -> None:
    make_stores(tmp_path, "mixed5", "mixed7")
    described = info(InfoConfig(tmp_path, cut="mixed5,mixed7"), Console())["cuts"]
    checked = check(CheckConfig(tmp_path, cut="mixed5,mixed7"), Console())["cuts"]
    assert list(described) == list(checked) == ["mixed5", "mixed7"]
    assert described["mixed5"] == info(InfoConfig(tmp_path, cut="mixed5"), Console())
    assert checked["mixed5"] == check(CheckConfig(tmp_path, cut="mixed5"), Console())
    (shard,) = (tmp_path / "mixed7/shards").iterdir()
    flip_byte(shard, 5000)
    with pytest.raises(CommandFailed) as failed:
        check(CheckConfig(tmp_path, read_data=True, cut="mixed5,mixed7"), Console())
    assert [found["ok"] for found in failed.value.result["cuts"].values()] == [True, False]
    with raises(UsageError, where="--cut", got="mixed5,mixed7"):
        pack(PackConfig(tmp_path, tmp_path / "out.h5", cut="mixed5,mixed7"), Console())
