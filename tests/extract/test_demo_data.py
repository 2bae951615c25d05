"""Copy the default data set from the installed package, and remove the copies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from base.errors import HeadstartError
from base.terminal import Console
from extract.demo_data import ElpvConfig, list_labelled, prepare_elpv
from tests.errors import raises
from tests.files import read_files

pytestmark = pytest.mark.unit

TABLE = """\
images/cell0001.png  1.0  mono
images/cell0002.png  1.0  poly
images/cell0003.png  0.3333333333333333  mono

images/cell0005.png  0.0  mono
images/cell0006.png  0.6666666666666666  poly
images/cell0004.png  0.0  poly
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small `elpv_dataset` that is found before the installed one."""
    folder = tmp_path / "site/elpv_dataset"
    (folder / "data/images").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "data/labels.csv").write_text(TABLE)
    for number in range(1, 7):
        (folder / f"data/images/cell{number:04}.png").write_bytes(b"picture %d" % number)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    return folder


def test_list_labelled_returns_certain_labels_in_the_order_of_the_table() -> None:
    assert list_labelled(TABLE) == [
        ("images/cell0001.png", "defective"),
        ("images/cell0002.png", "defective"),
        ("images/cell0005.png", "functional"),
        ("images/cell0004.png", "functional"),
    ]


def test_list_labelled_of_an_empty_table_is_empty() -> None:
    assert list_labelled("\n\n") == []


def test_prepare_elpv_copies_pictures_with_certain_labels_into_class_folders(
    package: Path, tmp_path: Path, quiet: Console
) -> None:
    out = tmp_path / "out"
    assert prepare_elpv(ElpvConfig(out), quiet) == {"images": 4, "folder": str(out)}
    assert read_files(out) == {
        "defective/cell0001.png": b"picture 1",
        "defective/cell0002.png": b"picture 2",
        "functional/cell0004.png": b"picture 4",
        "functional/cell0005.png": b"picture 5",
    }


def test_prepare_elpv_again_adds_only_missing_pictures(package: Path, tmp_path: Path, quiet: Console) -> None:
    out = tmp_path / "out"
    prepare_elpv(ElpvConfig(out), quiet)
    expected = read_files(out)
    (out / "defective/cell0001.png").unlink()
    kept = (out / "functional/cell0004.png").stat().st_mtime_ns

    prepare_elpv(ElpvConfig(out), quiet)

    assert read_files(out) == expected
    assert (out / "functional/cell0004.png").stat().st_mtime_ns == kept


def test_prepare_elpv_without_the_package_is_refused(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    with raises(HeadstartError, where="elpv-dataset"):
        prepare_elpv(ElpvConfig(tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()


def test_remove_deletes_the_pictures_of_the_package_and_keeps_all_others(
    package: Path, tmp_path: Path, quiet: Console
) -> None:
    out, elsewhere = tmp_path / "data/elpv", tmp_path / "elsewhere"
    prepare_elpv(ElpvConfig(out), quiet)
    kept = {
        "functional/mine.png": b"mine",
        "functional/cell0005.png": b"picture 5, edited",
        "owls/cell0004.png": b"picture 4",
    }
    for name, content in kept.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)
    (out / "defective").rename(elsewhere)
    (out / "defective").symlink_to(elsewhere)
    result = prepare_elpv(ElpvConfig(out, remove=True), quiet)
    assert result["removed"] == 1
    assert read_files(out) == kept
    assert len(read_files(elsewhere)) == 2


def test_remove_deletes_empty_folders(package: Path, tmp_path: Path, quiet: Console) -> None:
    out = tmp_path / "elpv"
    prepare_elpv(ElpvConfig(out), quiet)
    assert prepare_elpv(ElpvConfig(out, remove=True), quiet)["removed"] == 4
    assert not out.exists()
