"""Several cuts: which stores a folder holds, which one is meant, and where new ones go."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import StoreMissingError, UsageError
from base.terminal import Console
from features.__main__ import InfoConfig, PackConfig, info, pack
from features.cuts import choose_cut_folders, list_cuts, resolve_cut
from tests.features.stores import fill_store


def make_stores(folder: Path, *cuts: str) -> Path:
    for cut in cuts:
        fill_store(folder / cut, range(1), cut=cut)
    return folder


def test_list_cuts_names_the_stores_in_a_folder(tmp_path: Path) -> None:
    assert list_cuts(make_stores(tmp_path, "mixed7", "mixed5")) == ["mixed5", "mixed7"]


def test_list_cuts_of_a_store_a_file_or_nothing_is_empty(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", range(1))
    fill_store(tmp_path / "store/mixed7", range(1))  # someone's backup
    (tmp_path / "packed.h5").write_bytes(b"")
    (tmp_path / "other/folder").mkdir(parents=True)
    for name in ("store", "packed.h5", "nowhere", "other"):
        assert list_cuts(tmp_path / name) == []


def test_list_cuts_leaves_out_a_store_that_is_not_what_its_folder_says(tmp_path: Path) -> None:
    make_stores(tmp_path, "mixed5", "mixed7")
    (tmp_path / "mixed5").rename(tmp_path / "mixed5-backup")
    assert list_cuts(tmp_path) == ["mixed7"]


def test_choose_cut_takes_the_one_that_was_named(tmp_path: Path) -> None:
    make_stores(tmp_path, "mixed5", "mixed7")
    assert resolve_cut(tmp_path, "mixed5") == tmp_path / "mixed5"
    assert resolve_cut(tmp_path, "mixed7") == tmp_path / "mixed7"


def test_choose_cut_of_a_single_one_needs_no_name(tmp_path: Path) -> None:
    assert resolve_cut(make_stores(tmp_path, "mixed5"), "") == tmp_path / "mixed5"


@pytest.mark.parametrize(("asked", "got"), [("", "none"), ("mixed6", "mixed6")])
def test_choose_cut_that_is_not_there_or_not_named_says_which_there_are(tmp_path: Path, asked: str, got: str) -> None:
    make_stores(tmp_path, "mixed5", "mixed7")
    with pytest.raises(UsageError) as raised:
        resolve_cut(tmp_path, asked)
    assert raised.value.exit_status == 2
    assert str(raised.value) == (
        f"--cut: expected one of mixed5, mixed7, which {tmp_path} holds, got {got}. Name one (CUT=)."
    )


def test_choose_cut_of_a_store_or_of_nothing_is_the_path_itself(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", range(1))
    assert resolve_cut(tmp_path / "store", "") == tmp_path / "store"
    assert resolve_cut(tmp_path / "store", "mixed7") == tmp_path / "store"
    assert resolve_cut(tmp_path / "nowhere", "") == tmp_path / "nowhere"


def test_choose_cut_of_a_store_that_lost_its_second_catalog_is_still_the_store(tmp_path: Path) -> None:
    from features.catalog.catalog import CATALOG_NAME
    from features.maintenance.check import rebuild_catalog

    fill_store(tmp_path, range(1))
    rebuild_catalog(tmp_path)  # the first catalog is in quarantine now
    (tmp_path / CATALOG_NAME).unlink()
    assert resolve_cut(tmp_path, "") == tmp_path


def test_place_cuts_single_one_is_the_folder_itself(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", range(1))
    for path in (tmp_path / "new", tmp_path / "store"):
        assert choose_cut_folders(path, ["mixed7"]) == {"mixed7": path}


def test_place_cuts_several_ones_get_a_folder_each_in_the_order_given(tmp_path: Path) -> None:
    placed = choose_cut_folders(tmp_path / "new", ["mixed7", "mixed5"])
    assert list(placed.items()) == [("mixed7", tmp_path / "new/mixed7"), ("mixed5", tmp_path / "new/mixed5")]
    assert not (tmp_path / "new").exists()


def test_place_cuts_goes_on_with_a_folder_of_stores_one_cut_or_more(tmp_path: Path) -> None:
    make_stores(tmp_path, "mixed5", "mixed7")
    assert choose_cut_folders(tmp_path, ["mixed7"]) == {"mixed7": tmp_path / "mixed7"}
    assert choose_cut_folders(tmp_path, ["mixed0"]) == {"mixed0": tmp_path / "mixed0"}
    (tmp_path / "mixed3").mkdir()  # a run was stopped before its catalog was made
    (tmp_path / "mixed5/.partial-features.h5").write_bytes(b"half")
    (tmp_path / ".DS_Store").write_bytes(b"icons")
    assert list(choose_cut_folders(tmp_path, ["mixed3", "mixed5"])) == ["mixed3", "mixed5"]


@pytest.mark.parametrize(
    ("kind", "cuts", "message"),
    [
        ("store", ["mixed5", "mixed7"], "expected a folder for several cuts, got a store of one cut"),
        ("file", ["mixed5", "mixed7"], "expected a folder for the stores, got a file"),
        ("foreign", ["mixed5", "mixed7"], "expected feature stores or an empty folder, got a folder with 'letters' in"),
        ("mixture", ["mixed5"], "expected feature stores or an empty folder, got a folder with 'letters' in"),
    ],
)
def test_place_cuts_where_something_else_stands_is_refused(
    tmp_path: Path, kind: str, cuts: list[str], message: str
) -> None:
    fill_store(tmp_path / "store", range(1))
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "foreign/letters").mkdir(parents=True)
    make_stores(tmp_path / "mixture", "mixed5")
    (tmp_path / "mixture/letters").mkdir()
    for folder in ("foreign", "mixture"):
        (tmp_path / folder / "letters/a.txt").write_text("Dear")
    with pytest.raises(StoreMissingError) as raised:
        choose_cut_folders(tmp_path / kind, cuts)
    assert str(raised.value).startswith(f"{tmp_path / kind}: {message}")
    assert raised.value.exit_status == 1


def test_place_cuts_beside_one_that_was_only_begun_goes_on(tmp_path: Path) -> None:
    make_stores(tmp_path / "stores", "mixed5")
    (tmp_path / "stores/mixed3/shards").mkdir(parents=True)
    (tmp_path / "stores/mixed3/LOCK").write_bytes(b"")
    assert choose_cut_folders(tmp_path / "stores", ["mixed4"]) == {"mixed4": tmp_path / "stores/mixed4"}


def test_commands_that_read_one_store_refuse_a_cut_that_it_does_not_hold(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", range(1))
    refusal = r"--cut: expected mixed7, whose features .* holds, got mixed5\."
    with pytest.raises(UsageError, match=refusal):
        info(InfoConfig(tmp_path / "store", cut="mixed5"), Console())
    with pytest.raises(UsageError, match=refusal):
        pack(PackConfig(tmp_path / "store", tmp_path / "out.h5", cut="mixed5"), Console())
    assert not (tmp_path / "out.h5").exists()
