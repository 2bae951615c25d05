"""The default data set, laid out from the installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from base.errors import HeadstartError
from base.terminal import Console
from extract.demo_data import ElpvConfig, lay_out_elpv, list_labelled

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
    """A package of that name before the real one on the path."""
    folder = tmp_path / "site/elpv_dataset"
    (folder / "data/images").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "data/labels.csv").write_text(TABLE)
    for number in range(1, 7):
        (folder / f"data/images/cell{number:04}.png").write_bytes(b"picture %d" % number)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    return folder


def list_files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_list_labelled_takes_the_sure_ones_in_the_tables_order() -> None:
    assert list_labelled(TABLE) == [
        ("images/cell0001.png", "defective"),
        ("images/cell0002.png", "defective"),
        ("images/cell0005.png", "functional"),
        ("images/cell0004.png", "functional"),
    ]


def test_list_labelled_of_an_empty_table_is_empty() -> None:
    assert list_labelled("\n\n") == []


def test_lay_out_copies_the_sure_ones_into_class_folders(package: Path, tmp_path: Path, quiet: Console) -> None:
    out = tmp_path / "out"
    assert lay_out_elpv(ElpvConfig(out), quiet) == {"images": 4, "folder": str(out)}
    assert list_files(out) == {
        "defective/cell0001.png": b"picture 1",
        "defective/cell0002.png": b"picture 2",
        "functional/cell0004.png": b"picture 4",
        "functional/cell0005.png": b"picture 5",
    }


def test_lay_out_again_adds_what_is_missing_and_touches_nothing_else(
    package: Path, tmp_path: Path, quiet: Console
) -> None:
    out = tmp_path / "out"
    lay_out_elpv(ElpvConfig(out), quiet)
    expected = list_files(out)
    (out / "defective/cell0001.png").unlink()
    kept = (out / "functional/cell0004.png").stat().st_mtime_ns

    lay_out_elpv(ElpvConfig(out), quiet)

    assert list_files(out) == expected
    assert (out / "functional/cell0004.png").stat().st_mtime_ns == kept


def test_lay_out_without_the_package_says_how_to_get_it(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    with pytest.raises(HeadstartError) as raised:
        lay_out_elpv(ElpvConfig(tmp_path / "out"), quiet)
    assert str(raised.value) == (
        "elpv-dataset: expected the installed package, got none. Run `pip install elpv-dataset`, or give DATA=folder."
    )
    assert not (tmp_path / "out").exists()


def test_remove_takes_the_packages_pictures_and_keeps_all_others(package: Path, tmp_path: Path, quiet: Console) -> None:
    out, elsewhere = tmp_path / "data/elpv", tmp_path / "elsewhere"
    lay_out_elpv(ElpvConfig(out), quiet)
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
    result = lay_out_elpv(ElpvConfig(out, remove=True), quiet)
    assert result["removed"] == 1
    assert list_files(out) == kept
    assert len(list_files(elsewhere)) == 2


def test_remove_leaves_no_empty_folders(package: Path, tmp_path: Path, quiet: Console) -> None:
    out = tmp_path / "elpv"
    lay_out_elpv(ElpvConfig(out), quiet)
    assert lay_out_elpv(ElpvConfig(out, remove=True), quiet)["removed"] == 4
    assert not out.exists()
