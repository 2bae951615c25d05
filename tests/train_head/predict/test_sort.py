"""Pictures sorted into folders of links."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from extract.images.walk import list_files
from tests.errors import raises
from tests.train_head.predict.fake import make_card
from train_head.predict.prediction import predict_labels
from train_head.predict.sort import check_sort_folder, name_folders, number_name, open_sorter
from train_head.runs.card import ModelCard

pytestmark = pytest.mark.unit

CARD = make_card(outlier_threshold=10.0)
SHARES = {"cats": [0.9, 0.1, 0.0], "dogs": [0.1, 0.9, 0.0], "unsure": [0.5, 0.4, 0.1], "none of these": [1.0, 0.0, 0.0]}


def add_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(path))
    return path


def sort_pictures(out: Path, found: Sequence[tuple[Path, str]], card: ModelCard = CARD) -> None:
    """Sort pictures with predictions of these kinds."""
    with open_sorter(out, card) as sorter:
        for path, kind in found:
            distance = 11.0 if kind == "none of these" else 9.0
            sorter.add([predict_labels(path, np.array(SHARES[kind], np.float32), distance, card, unsure=0.2)])


def list_links(out: Path) -> dict[str, str]:
    """Return the content behind each link, by its path."""
    links = [path for path in out.rglob("*") if path.parent != out]
    return {path.relative_to(out).as_posix(): path.read_text() for path in sorted(links)}


def test_sorter_links_each_picture_in_the_folder_of_its_class(tmp_path: Path) -> None:
    pictures = {kind: add_picture(tmp_path / f"in/{kind}.jpg") for kind in SHARES}
    sort_pictures(tmp_path / "out", [(path, kind) for kind, path in pictures.items()])
    assert list_links(tmp_path / "out") == {f"{kind}/{kind}.jpg": str(path) for kind, path in pictures.items()}
    assert all(path.is_file() and not path.is_symlink() for path in pictures.values())


def test_sorter_of_equal_names_numbers_them(tmp_path: Path) -> None:
    pictures = [add_picture(tmp_path / f"in/{folder}/a.jpg") for folder in "123"]
    sort_pictures(tmp_path / "out", [(path, "cats") for path in (*pictures, add_picture(tmp_path / "in/a-2.jpg"))])
    links = list_links(tmp_path / "out")
    assert list(links) == ["cats/a-2-2.jpg", "cats/a-2.jpg", "cats/a-3.jpg", "cats/a.jpg"]
    assert len(set(links.values())) == 4


def test_sorter_of_a_picture_with_several_labels_links_each(tmp_path: Path) -> None:
    card = make_card(is_multi_label=True, thresholds=[0.5] * 3)
    rows = {"both.jpg": [0.9, 0.9, 0.1], "none.jpg": [0.1, 0.1, 0.1]}
    with open_sorter(tmp_path / "out", card) as sorter:
        for name, row in rows.items():
            sorter.add([predict_labels(add_picture(tmp_path / name), np.array(row, np.float32), None, card)])
    assert list(list_links(tmp_path / "out")) == ["cats/both.jpg", "dogs/both.jpg", "no label/none.jpg"]


def test_sorter_links_survive_a_move_of_the_common_folder(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "all/in/a.jpg")
    sort_pictures(tmp_path / "all/out", [(picture, "cats")])
    (tmp_path / "all").rename(tmp_path / "moved")
    assert list_links(tmp_path / "moved/out") == {"cats/a.jpg": str(picture)}


def test_sorter_links_to_pictures_elsewhere_survive_a_move_of_the_sorted_folder(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "in/a.jpg")
    sort_pictures(tmp_path / "work/out", [(picture, "cats")])
    (tmp_path / "work/out").rename(tmp_path / "out")
    assert list_links(tmp_path / "out") == {"cats/a.jpg": str(picture)}


def test_sorter_again_replaces_the_links_and_keeps_other_entries(tmp_path: Path) -> None:
    first, second = (add_picture(tmp_path / f"in/{name}.jpg") for name in "ab")
    out = tmp_path / "out"
    sort_pictures(out, [(first, "cats"), (second, "dogs")])
    (out / "notes.txt").write_text("mine")
    sort_pictures(out, [(second, "cats")])
    assert list_links(out) == {"cats/b.jpg": str(second)}
    assert (out / "notes.txt").read_text() == "mine"
    assert first.exists()


def test_sorter_with_another_model_removes_the_folders_of_the_earlier_one(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "in/a.jpg")
    sort_pictures(tmp_path / "out", [(picture, "cats")])
    sort_pictures(tmp_path / "out", [(picture, "cats")], make_card(classes=["lions", "dogs", "owls"]))
    assert list(list_links(tmp_path / "out")) == ["lions/a.jpg"]


@pytest.mark.parametrize("kind", ["class folder", "file in a class folder", "foreign list"])
def test_sorter_into_a_folder_with_foreign_entries_is_refused(tmp_path: Path, kind: str) -> None:
    out, picture = tmp_path / "out", add_picture(tmp_path / "in/a.jpg")
    if kind == "class folder":
        mine = add_picture(out / "cats/mine.jpg")
    else:
        sort_pictures(out, [(picture, "cats")])
        mine = out / ("cats/mine.jpg" if kind == "file in a class folder" else "headstart-sorted.json")
        mine.write_text("{}")
    with pytest.raises(HeadstartError):
        sort_pictures(out, [(picture, "dogs")])
    assert mine.exists()
    assert not (out / "dogs").exists()


def test_sorter_that_fails_leaves_the_earlier_links(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "in/a.jpg")
    sort_pictures(tmp_path / "out", [(picture, "cats")])
    with pytest.raises(KeyboardInterrupt), open_sorter(tmp_path / "out", CARD):
        raise KeyboardInterrupt
    assert list(list_links(tmp_path / "out")) == ["cats/a.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def refuse_links(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_sorter_without_symbolic_links_makes_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [add_picture(tmp_path / f"in/{name}/a.jpg") for name in "12"]
    monkeypatch.setattr(Path, "symlink_to", refuse_links)
    for _ in range(2):
        sort_pictures(tmp_path / "out", [(picture, "cats") for picture in pictures])
    links = [tmp_path / "out/cats" / name for name in ("a.jpg", "a-2.jpg")]
    assert all(path.samefile(link) for path, link in zip(pictures, links, strict=True))
    assert [path.stat().st_nlink for path in pictures] == [2, 2]


def test_sorter_without_any_links_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "symlink_to", refuse_links)
    monkeypatch.setattr(os, "link", refuse_links)
    with raises(HeadstartError, where=tmp_path / "out"):
        sort_pictures(tmp_path / "out", [(add_picture(tmp_path / "a.jpg"), "cats")])


def test_name_folders_of_awkward_classes_are_valid_and_different() -> None:
    classes = ["a/b", "a_b", "", ".", "..", "Cats", "cats", "unsure", "x" * 300, "x" * 299, "new\nline", "猫"]
    folders = name_folders(make_card(classes=classes))
    names = folders.list_names()
    assert len({name.casefold() for name in names}) == len(names)
    assert all(0 < len(os.fsencode(name)) <= 255 and "/" not in name and not name.startswith(".") for name in names)
    assert (folders.classes["猫"], folders.classes["Cats"], folders.classes["unsure"]) == ("猫", "Cats", "unsure")


def test_number_name_of_the_longest_name_is_as_long() -> None:
    name = "é" * 125 + ".jpeg"
    assert number_name(name, 1) == name
    assert number_name(name, 12).endswith("-12.jpeg")
    assert len(os.fsencode(number_name(name, 12))) <= 255


def test_check_sort_folder_that_is_a_file_is_a_usage_error(tmp_path: Path) -> None:
    with raises(UsageError, where=add_picture(tmp_path / "file")):
        check_sort_folder(str(tmp_path / "file"), [])


@pytest.mark.parametrize("out", ["in", "in/train", "in/train/cats", "link", "in/train/../train"])
def test_check_sort_folder_that_contains_the_pictures_is_a_usage_error(out: str, tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "in/train/cats/a.jpg")
    (tmp_path / "link").symlink_to("in")
    with raises(UsageError, where=str(tmp_path / out)):
        check_sort_folder(str(tmp_path / out), [str(picture)])


def test_check_sort_folder_beside_or_among_the_pictures_is_accepted(tmp_path: Path) -> None:
    pictures = [str(add_picture(tmp_path / "in" / name)) for name in ("a.jpg", "train/cats/a.jpg")]
    for out in ("", str(tmp_path / "out"), str(tmp_path / "in/sorted"), str(tmp_path / "in/train/cats/sorted")):
        check_sort_folder(out, pictures)


def test_list_files_skips_a_folder_of_sorted_pictures(tmp_path: Path) -> None:
    sort_pictures(tmp_path / "in/sorted", [(add_picture(tmp_path / "in/a.jpg"), "cats")])
    listing = list_files(tmp_path / "in")
    assert [picture.path for picture in listing.pictures] == ["a.jpg"]
    assert [found.path for found in listing.skipped] == ["sorted"]
