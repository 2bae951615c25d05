"""Layouts of public data sets: read without an option, or refused with advice that works."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from base.errors import HeadstartError
from extract.images.refusals import LayoutError
from tests.errors import raises
from tests.extract.images.advice import Options, follow_advice, make_classes, make_files

pytestmark = pytest.mark.unit

CLASSES = {"cats": 3, "dogs": 3}


def draw_hymenoptera(folder: Path) -> None:
    make_classes(folder, "train", "val", labels=["ants", "bees"])


def draw_cat_and_dog(folder: Path) -> None:
    make_classes(folder, "training_set/training_set", "test_set/test_set")
    make_files(folder, "training_set/training_set/cats/_DS_Store")


def draw_intel(folder: Path) -> None:
    make_classes(folder, "seg_train/seg_train", "seg_test/seg_test")
    make_files(folder, "seg_pred/seg_pred/1.jpg", "seg_pred/seg_pred/2.jpg")


def draw_create_ml(folder: Path) -> None:
    make_classes(folder, "Training Data", "Testing Data")


def draw_chest_xray(folder: Path) -> None:
    make_classes(folder, *(f"{top}{split}" for top in ("", "chest_xray/") for split in ("train", "test", "val")))
    make_files(folder, "__MACOSX/chest_xray/._train", "chest_xray/.DS_Store")


def draw_asl(folder: Path) -> None:
    make_classes(folder, "asl_train/asl_train")
    make_files(folder, "asl_test/asl_test/A_test.jpg")


def draw_archive(folder: Path) -> None:
    make_classes(folder, "kagglecatsanddogs/PetImages")
    make_files(folder, "kagglecatsanddogs/readme.txt")


def draw_malaria(folder: Path) -> None:
    make_classes(folder, "cell_images", "cell_images/cell_images")


def draw_class_first(folder: Path) -> None:
    make_files(folder, *(f"{label}/{split}/{n}.jpg" for label in CLASSES for split in ("train", "test") for n in "012"))


def draw_monkeys(folder: Path) -> None:
    make_classes(folder, "training/training", "validation/validation")
    make_files(folder, "monkey_labels.txt")


@pytest.mark.parametrize(
    ("draw", "splits", "left_out"),
    [
        (draw_hymenoptera, {"train": "train", "val": "validation"}, {}),
        (draw_cat_and_dog, {"training_set/training_set": "train", "test_set/test_set": "test"}, {}),
        (draw_intel, {"seg_train/seg_train": "train", "seg_test/seg_test": "test"}, {"seg_pred": 2}),
        (draw_create_ml, {"Training Data": "train", "Testing Data": "test"}, {}),
        (draw_chest_xray, {"train": "train", "test": "test", "val": "validation"}, {"chest_xray": 18}),
        (draw_asl, {"asl_train/asl_train": "train"}, {"asl_test": 1}),
        (draw_archive, {}, {}),
        (draw_malaria, {}, {"cell_images/cell_images": 6}),
        (draw_class_first, {"*/train": "train", "*/test": "test"}, {}),
        (draw_monkeys, {"training/training": "train", "validation/validation": "validation"}, {}),
    ],
)
@pytest.mark.parametrize("top", ["", "archive", "archive/again"])
def test_scan_public_layout_is_read_without_an_option(
    tmp_path: Path, draw: Callable[[Path], None], splits: dict[str, str], left_out: dict[str, int], top: str
) -> None:
    draw(tmp_path / top)

    scan = Options(tmp_path).scan()

    prefix = f"{top}/" if top else ""
    inner = "kagglecatsanddogs/" if draw is draw_archive else ""
    assert dict(scan.splits) == {f"{prefix}{path}": split for path, split in splits.items()}, inner
    counts = scan.count_by_class()
    assert set(counts) == (set(splits.values()) or {""})
    assert {tuple(found.values()) for found in counts.values()} == {(3, 3)}
    assert {found.path: found.num_pictures for found in scan.skipped if found.num_pictures} == {
        f"{prefix}{path}": count for path, count in left_out.items()
    }


def test_scan_folders_of_a_nas_are_left_out(tmp_path: Path) -> None:
    make_classes(tmp_path, "")
    make_files(tmp_path, *(f"{label}/@eaDir/{n}.jpg/SYNOPHOTO_THUMB_M.jpg" for label in CLASSES for n in range(3)))
    for name in ("#recycle", "lost+found"):
        (tmp_path / name).mkdir()
    scan = Options(tmp_path).scan()
    assert scan.count_by_class() == {"": CLASSES}
    assert (scan.skipped, scan.ignored) == ([], {"@eaDir": 2, "#recycle": 1, "lost+found": 1})


@pytest.mark.parametrize("tops", [["", ""], ["train/", "validation/"]])
def test_scan_names_that_differ_only_in_unicode_form_are_one_class(tmp_path: Path, tops: list[str]) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    names = [f"{tops[0]}{composed}/{n}.jpg" for n in range(3)] + [f"{tops[1]}{decomposed}/{n}.jpg" for n in range(4, 6)]
    make_files(tmp_path, *names)
    make_classes(tmp_path, *dict.fromkeys(top.rstrip("/") for top in tops), labels=["dogs"])
    scan = Options(tmp_path).scan()
    assert {image.label for image in scan.images} == {composed, "dogs"}
    assert {image.path for image in scan.images} >= set(names)
    assert sum(found[composed] for found in scan.count_by_class().values()) == 5


def test_scan_folder_beside_train_without_class_names_is_left_out_with_its_pictures(tmp_path: Path) -> None:
    make_classes(tmp_path, "train", "test")
    make_files(tmp_path, "runs/exp1/curve.png", "runs/exp1/events", "docs/index.html", "test1/1.jpg")
    scan = Options(tmp_path).scan()
    assert scan.count_by_class() == {"train": CLASSES, "test": CLASSES}
    assert {found.path: found.num_pictures for found in scan.skipped} == {"docs/index.html": 0, "runs": 1, "test1": 1}


def test_scan_split_without_class_folders_is_left_out_with_its_pictures(tmp_path: Path) -> None:
    make_classes(tmp_path, "train")
    make_files(tmp_path, "test/1.jpg", "test/2.jpg")
    scan = Options(tmp_path).scan()
    assert scan.splits == {"train": "train"}
    assert [(found.path, found.num_pictures) for found in scan.skipped] == [("test", 2)]


def test_scan_empty_folder_of_a_split_is_listed(tmp_path: Path) -> None:
    make_classes(tmp_path, "train")
    (tmp_path / "val/cats").mkdir(parents=True)
    scan = Options(tmp_path).scan()
    assert scan.splits == {"train": "train"}
    assert [found.path for found in scan.skipped] == ["val"]


# Refused layouts; the advice works.


def draw_subfolders(folder: Path) -> None:
    make_classes(folder, "cats", "dogs", labels=["day", "night"])


def draw_other_copy(folder: Path) -> None:
    draw_malaria(folder)
    make_files(folder, "cell_images/cell_images/dogs/99.jpg")


def draw_other_copy_beside_its_prefix(folder: Path) -> None:
    draw_other_copy(folder)
    make_classes(folder, "cell_images", labels=["cell"])


def draw_same_names_copy(folder: Path) -> None:
    draw_malaria(folder)
    (folder / "cell_images/cell_images/dogs/1.jpg").write_bytes(b"BYTES of dogs/1.jpg")


def draw_class_beside_train(folder: Path) -> None:
    make_classes(folder, "train")
    make_files(folder, "owls/1.jpg", "owls/2.jpg")


def draw_more_of_the_classes(folder: Path) -> None:
    make_classes(folder, "train", "extra")


def draw_other_xray(folder: Path) -> None:
    make_classes(folder, "train", "test", "xray/train", "xray/test")
    make_files(folder, "xray/train/dogs/99.jpg")


def draw_many_sets(folder: Path) -> None:
    make_classes(folder, "course/training_set", "course/test_set", "ml/Training Data", "ml/Testing Data")


def draw_split_again(folder: Path) -> None:
    make_classes(folder, "train/train", "train/val")
    make_files(folder, "test/1.jpg")


def draw_one_folder_and_an_empty_one(folder: Path) -> None:
    make_classes(folder, "Pet Images")
    make_files(folder, "docs/readme.txt")


def draw_stray_picture_beside_one_folder(folder: Path) -> None:
    make_classes(folder, "PetImages")
    make_files(folder, "sample.jpg")


def draw_empty_classes(folder: Path) -> None:
    make_classes(folder, "")
    for name in ("1057", "1100", "1116"):
        (folder / name).mkdir()


def draw_one_picture(folder: Path) -> None:
    make_classes(folder, "")
    make_files(folder, "owls/1.jpg", "bats/1.jpg")


def draw_missing_in_validation(folder: Path) -> None:
    make_classes(folder, "train", "val")
    make_classes(folder, "train", labels=["owls"])
    make_classes(folder, "val", "test", labels=["bats"])


def draw_flat_train_as_class(folder: Path) -> None:
    make_files(folder, *(f"{label}/{n}.jpg" for label in ("train", "car", "plane") for n in range(3)))


def draw_pictures_and_masks(folder: Path) -> None:
    make_files(folder, *(f"{name}/{n}.png" for name in ("images", "masks") for n in range(3)))


def draw_numbered_parts(folder: Path) -> None:
    make_files(folder, *(f"HAM_images_part_{part}/{n}.jpg" for part in (1, 2) for n in range(3)))


def draw_segmentations(folder: Path) -> None:
    make_classes(folder, "birds/images", "segmentations")
    make_files(folder, "birds/parts/parts.txt")


def split(train: tuple[str, ...], **others: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Return the expected counts: three pictures for each label."""
    return {name: dict.fromkeys(labels, 3) for name, labels in {"train": train, **others}.items()}


TWO = ("cats", "dogs")
PLAIN = {"": CLASSES}
EACH, ONE = {"": {"day": 6, "night": 6}}, {"": {"day": 3, "night": 3}}


@pytest.mark.parametrize(
    ("draw", "names", "expected"),
    [
        (draw_subfolders, TWO + ("day", "night"), [{"": {"cats": 6, "dogs": 6}}, EACH, ONE]),
        (draw_other_copy, TWO + ("cell_images",), [PLAIN, {"": {"cats": 3, "dogs": 4}}]),
        (
            draw_other_copy_beside_its_prefix,
            (*TWO, "cell_images"),
            [{"": {**CLASSES, "cell": 3}}, {"": {"cats": 3, "dogs": 4}}],
        ),
        (draw_same_names_copy, TWO + ("cell_images",), [PLAIN, PLAIN]),
        (draw_class_beside_train, ("train/", "owls"), [split(TWO), {"": {"owls": 2, "train": 6}}]),
        (draw_more_of_the_classes, ("train/", "extra"), [split(TWO), {"": {"extra": 6, "train": 6}}]),
        (draw_other_xray, ("train/", "xray"), [split(TWO, test=TWO)]),
        (draw_many_sets, ("course/", "ml/"), [split(TWO, test=TWO)] * 2 + [{"": {"course": 12, "ml": 12}}]),
        (draw_split_again, ("train/",), [split(TWO, validation=TWO)]),
        (draw_one_folder_and_an_empty_one, ("Pet Images/", "6 pictures"), [PLAIN]),
        (draw_stray_picture_beside_one_folder, ("PetImages/", "6 pictures", "1 picture directly"), [PLAIN]),
        (draw_empty_classes, ("1057", "1100", "1116"), [PLAIN]),
        (draw_one_picture, ("owls", "bats"), [PLAIN]),
        (draw_missing_in_validation, ("owls", "bats"), [split(TWO, validation=TWO)]),
        (draw_pictures_and_masks, ("images/", "masks/"), [{"": {"images": 3, "masks": 3}}]),
        (draw_numbered_parts, ("part_1/", "part_2/"), [{"": {"HAM_images_part_1": 3, "HAM_images_part_2": 3}}]),
        (draw_segmentations, ("birds", "segmentations/"), [PLAIN, PLAIN, {"": {"birds": 6, "segmentations": 6}}]),
        (draw_flat_train_as_class, ("train/", "car", "plane"), [{"": {"car": 3, "plane": 3, "train": 3}}]),
    ],
)
def test_scan_unclear_layout_is_refused_with_advice_that_works(
    tmp_path: Path, draw: Callable[[Path], None], names: tuple[str, ...], expected: list[dict[str, dict[str, int]]]
) -> None:
    draw(tmp_path)

    with pytest.raises(HeadstartError) as caught:
        Options(tmp_path).scan()

    assert caught.value.where == tmp_path
    assert [name for name in names if name not in caught.value.got] == []
    assert [options.list_counts() for options in follow_advice(caught.value, tmp_path)] == expected


@pytest.mark.parametrize("tops", [("",), ("train", "val")])
def test_scan_deep_classes_have_the_label_of_the_top_folder_or_the_chosen_ones(
    tmp_path: Path, tops: tuple[str, ...]
) -> None:
    for top in tops:
        make_classes(tmp_path, f"{top}/lung".lstrip("/"), labels=["lung_aca", "lung_n"])
        make_classes(tmp_path, f"{top}/colon".lstrip("/"), labels=["colon_aca", "colon_n"])
    scan = Options(tmp_path).scan()
    assert [sorted(counts) for counts in scan.count_by_class().values()] == [["colon", "lung"]] * len(tops)
    assert len(scan.nested) == len(scan.images)
    chosen = Options(tmp_path, classes="lung_aca,lung_n,colon_n").scan()
    assert [sorted(counts) for counts in chosen.count_by_class().values()] == [["colon_n", "lung_aca", "lung_n"]] * len(
        tops
    )
    assert not chosen.nested


@pytest.mark.parametrize("names", [("val", "validation"), ("test_set", "Testing Data")])
def test_scan_two_folders_of_one_split_are_refused_with_both(tmp_path: Path, names: tuple[str, str]) -> None:
    make_classes(tmp_path, "train", *names)
    with raises(LayoutError, where=tmp_path) as caught:
        Options(tmp_path).scan()
    assert [name for name in names if f"{name}/" not in caught.value.got] == []


def test_scan_flat_pictures_are_refused_with_their_number_and_the_words_of_their_names(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"train/{label}.{n}.jpg" for label in ("cat", "dog") for n in range(4)))
    make_files(tmp_path, *(f"test1/{n}.jpg" for n in range(5)))

    with raises(LayoutError, where=tmp_path) as caught:
        Options(tmp_path).scan()

    assert [text for text in ("8 pictures", "train/", "5 pictures", "test1/") if text not in caught.value.got] == []
    assert [text for text in ("train/cat/", "train/dog/", "--labels") if text not in caught.value.advice] == []
    for path in list((tmp_path / "train").glob("*.jpg")):
        folder = path.parent / path.name.partition(".")[0]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    assert Options(tmp_path).list_counts() == {"train": {"cat": 4, "dog": 4}}


@pytest.mark.parametrize("table", ["labels.csv", "meta/labels.parquet"])
@pytest.mark.parametrize("place", ["", "images/"])
def test_scan_flat_pictures_beside_a_table_are_refused_with_the_option_for_the_table(
    tmp_path: Path, place: str, table: str
) -> None:
    make_files(tmp_path, table, *(f"{place}{n}.jpg" for n in range(4)))
    with raises(LayoutError, where=tmp_path) as caught:
        Options(tmp_path).scan()
    assert "4 pictures" in caught.value.got
    assert f"--labels {tmp_path / table}" in caught.value.advice


@pytest.mark.parametrize(
    ("tops", "place", "expected"),
    [([""], "cats", ""), (["train", "val"], "train/dogs", ""), (["PetImages"], "PetImages/cats", "PetImages")],
)
def test_scan_class_folder_itself_is_refused_with_the_folder_above(
    tmp_path: Path, tops: list[str], place: str, expected: str
) -> None:
    make_classes(tmp_path, *tops)
    with raises(LayoutError, where=tmp_path / place) as caught:
        Options(tmp_path / place).scan()
    assert "3 pictures" in caught.value.got
    assert f"--images {tmp_path / expected}".rstrip("/") in caught.value.advice


def test_scan_class_at_fault_in_many_is_listed_up_to_five_with_the_number_of_the_others(tmp_path: Path) -> None:
    make_classes(tmp_path, "")
    make_files(tmp_path, *(f"class{n}/1.jpg" for n in range(9)))
    with raises(HeadstartError, where=tmp_path) as caught:
        Options(tmp_path).scan()
    assert ("class4" in caught.value.got, "class5" in caught.value.got) == (True, False)
    assert "4 more" in caught.value.got


def test_scan_labels_in_several_splits_that_differ_in_case_are_refused_with_both(tmp_path: Path) -> None:
    make_classes(tmp_path, "train", labels=["Cats", "dogs"])
    make_classes(tmp_path, "val")
    with raises(HeadstartError, where=tmp_path) as caught:
        Options(tmp_path).scan()
    assert "'cats' and 'Cats'" in caught.value.got
