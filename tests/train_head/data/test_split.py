"""Which examples are trained on and which validate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from base.errors import HeadstartError
from features.catalog.tables import ImageRow
from features.schema import ImageStatus
from features.store import Example
from tests.train_head.synthetic import list_paths, make_example, place_hash
from train_head.data.split import Split, split_by_content, split_examples


def draw_examples(count: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(["cats", "dogs"], count)
    return [make_example(f"{label}/{n:04}.jpg", rng.bytes(32)) for n, label in enumerate(labels)]


def place_examples(places: dict[str, list[float]]) -> list[Example]:
    return [
        make_example(f"{label}/{number}.jpg", place_hash(place))
        for label, values in places.items()
        for number, place in enumerate(values)
    ]


def list_paths_of(examples: list[Example]) -> list[str]:
    return sorted(example.path for example in examples)


def make_image(path: str, status: ImageStatus = ImageStatus.DONE) -> ImageRow:
    example = make_example(path)
    content = example.content_hash if status is ImageStatus.DONE else None
    return ImageRow(path, example.label, example.split, 1, 1, content, status)


def test_split_orders_sides_by_content_then_label_then_path() -> None:
    rng = np.random.default_rng(3)
    contents = [rng.bytes(32) for _ in range(6)]
    named: list[tuple[str, bytes | None]] = [
        (f"train/{label}/{n}.jpg", contents[n]) for n in range(6) for label in ("dogs", "cats")
    ]
    named += [("train/cats/again.jpg", contents[0])]
    named += [
        (f"{side}/{label}/{n}.jpg", None)
        for side in ("validation", "test")
        for label in ("dogs", "cats")
        for n in range(4)
    ]
    examples = [make_example(path, content) for path, content in named]
    first = split_examples(examples, 0.2)
    for side in (first.train, first.validation, first.test):
        assert side == sorted(side, key=lambda example: (example.content_hash, example.label, example.path))
    for _ in range(5):
        moved = [examples[n]._replace(shard=int(rng.integers(9)), row=int(n)) for n in rng.permutation(len(examples))]
        again = split_examples(moved, 0.2)
        for mine, theirs in zip(
            (again.train, again.validation, again.test), (first.train, first.validation, first.test), strict=True
        ):
            assert [example.path for example in mine] == [example.path for example in theirs]


def test_split_with_validation_folder_follows_the_folders() -> None:
    paths = list_paths({"train/cats": 2, "validation/cats": 1, "train/dogs": 3, "validation/dogs": 2, "test/dogs": 4})
    split = split_examples([make_example(path) for path in paths], 0.2)
    assert list_paths_of(split.train) == list_paths({"train/cats": 2, "train/dogs": 3})
    assert list_paths_of(split.validation) == list_paths({"validation/cats": 1, "validation/dogs": 2})
    assert split.rule == "folder validation/"


def test_split_without_validation_folder_sets_training_pictures_aside_and_keeps_test() -> None:
    examples = [e._replace(path=f"train/{e.path}", split="train") for e in draw_examples(60)]
    test = [make_example(path) for path in list_paths({"test/cats": 1, "test/dogs": 2})]
    split = split_examples([*test, *examples], 0.3)
    assert split == replace(split_by_content(examples, 0.3), test=split.test)
    assert list_paths_of(split.test) == list_paths_of(test)
    assert split.rule == "content hash, 0.3 set aside"


@pytest.mark.parametrize("status", [ImageStatus.PENDING, ImageStatus.FAILED])
@pytest.mark.parametrize("with_test", [False, True])
def test_split_with_a_validation_folder_of_which_nothing_is_extracted_is_refused(
    status: ImageStatus, with_test: bool
) -> None:
    done = list_paths({"train/cats": 9, "train/dogs": 9} | ({"test/cats": 3, "test/dogs": 3} if with_test else {}))
    waiting = list_paths({"validation/cats": 2, "validation/dogs": 2})
    images = [*map(make_image, done), *(make_image(path, status) for path in waiting)]
    with pytest.raises(HeadstartError) as caught:
        split_examples([make_example(path) for path in done], 0.2, images)
    assert caught.value.where == "the folder validation/"
    assert caught.value.got == "none of its 4 pictures"


def test_split_with_a_part_of_the_validation_folder_extracted_validates_with_that() -> None:
    done = list_paths({"train/cats": 2, "train/dogs": 2, "validation/cats": 1, "validation/dogs": 1})
    images = [*map(make_image, done), make_image("validation/cats/9.jpg", ImageStatus.PENDING)]
    split = split_examples([make_example(path) for path in done], 0.2, images)
    assert list_paths_of(split.validation) == ["validation/cats/00.jpg", "validation/dogs/00.jpg"]


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_split_without_held_out_folder_goes_by_content(prefix: str) -> None:
    examples = [e._replace(path=prefix + e.path, split=prefix.strip("/")) for e in draw_examples(60)]
    split = split_examples(examples, 0.3)
    assert split == split_by_content(examples, 0.3)
    assert split.rule == "content hash, 0.3 set aside"
    assert list_paths_of(split.train + split.validation) == list_paths_of(examples)


def test_split_by_content_puts_places_below_the_share_aside() -> None:
    places = {"cats": [0.0, 0.2499, 0.25, 0.9999], "dogs": [0.1, 0.7]}
    split = split_by_content(place_examples(places), 0.25)
    assert list_paths_of(split.validation) == ["cats/0.jpg", "cats/1.jpg", "dogs/0.jpg"]
    assert list_paths_of(split.train) == ["cats/2.jpg", "cats/3.jpg", "dogs/1.jpg"]


def test_split_by_content_keeps_every_side_when_others_come_and_go() -> None:
    examples = draw_examples(400)
    held_out = set(split_by_content(examples, 0.2).validation)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        fewer = [example for example in examples if rng.random() < 0.5]
        more = [e._replace(path=f"new/{e.path}") for e in draw_examples(100, seed=1000 + seed)] + examples
        assert set(split_by_content(fewer, 0.2).validation) == held_out & set(fewer)
        assert set(split_by_content(more, 0.2).validation) & set(examples) == held_out


def test_split_by_content_keeps_every_side_when_files_are_renamed_or_reordered() -> None:
    examples = draw_examples(200)
    renamed = [
        example._replace(path=f"{example.label}/renamed-{number}.png")
        for number, example in enumerate(reversed(examples))
    ]
    before, after = split_by_content(examples, 0.2), split_by_content(renamed, 0.2)
    assert {e.content_hash for e in before.validation} == {e.content_hash for e in after.validation}
    assert len(before.validation) == len(after.validation)


def test_split_by_content_keeps_duplicates_on_one_side() -> None:
    examples = draw_examples(100)
    copies = [e._replace(path=f"{e.label}/copy/{number}.jpg") for number, e in enumerate(examples)]
    split = split_by_content(examples + copies, 0.2)
    assert split.count_leaks() == 0
    assert len(split.validation) == 2 * len(split_by_content(examples, 0.2).validation)


def test_split_by_content_keeps_duplicates_of_two_classes_on_one_side() -> None:
    examples = [
        *place_examples({"cats": [0.1, 0.5, 0.6], "dogs": [0.15, 0.7, 0.8]}),
        make_example("dogs/same-as-cat-0.jpg", place_hash(0.1)),
        make_example("cats/same-as-dog-1.jpg", place_hash(0.7)),
    ]
    split = split_examples(examples, 0.2)
    assert list_paths_of(split.validation) == ["cats/0.jpg", "dogs/0.jpg", "dogs/same-as-cat-0.jpg"]
    assert split.count_leaks() == 0


def test_split_by_content_of_two_pictures_a_class_has_every_class_on_both_sides() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        examples = [
            make_example(f"{label}/{number}.jpg", rng.bytes(32))
            for label in ("cats", "dogs", "owls")
            for number in range(2)
        ]
        split = split_examples(examples, 0.2)
        assert sorted(e.label for e in split.train) == ["cats", "dogs", "owls"]
        assert sorted(e.label for e in split.validation) == ["cats", "dogs", "owls"]


def test_split_by_content_without_validation_picture_moves_the_nearest_with_its_duplicates() -> None:
    examples = place_examples({"cats": [0.9, 0.3, 0.5, 0.3], "dogs": [0.1, 0.8]})
    split = split_by_content(examples, 0.2)
    assert list_paths_of(split.validation) == ["cats/1.jpg", "cats/3.jpg", "dogs/0.jpg"]
    assert list_paths_of(split.train) == ["cats/0.jpg", "cats/2.jpg", "dogs/1.jpg"]


def test_split_by_content_without_training_picture_moves_the_nearest_with_its_duplicates() -> None:
    examples = place_examples({"cats": [0.15, 0.01, 0.15, 0.1], "dogs": [0.1, 0.8]})
    split = split_by_content(examples, 0.2)
    assert list_paths_of(split.train) == ["cats/0.jpg", "cats/2.jpg", "dogs/1.jpg"]
    assert list_paths_of(split.validation) == ["cats/1.jpg", "cats/3.jpg", "dogs/0.jpg"]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_split_by_content_of_2000_pictures_comes_near_the_asked_share(share: float) -> None:
    split = split_by_content(draw_examples(2000), share)
    assert len(split.validation) / 2000 == pytest.approx(share, abs=0.025)
    assert len(split.train) + len(split.validation) == 2000


def test_split_with_the_same_bytes_in_both_folders_counts_each_leaked_picture() -> None:
    train = [make_example("train/cats/a.jpg", place_hash(0.1)), make_example("train/dogs/b.jpg")]
    validation = [
        make_example("validation/cats/a.jpg", place_hash(0.1)),
        make_example("validation/cats/a-again.jpg", place_hash(0.1)),
        make_example("validation/dogs/c.jpg"),
    ]
    assert split_examples(train + validation, 0.2).count_leaks() == 2


def test_split_classes_are_the_training_labels_in_alphabetical_order() -> None:
    examples = [make_example(path) for path in ("owls/1.jpg", "Dogs/1.jpg", "cats/1.jpg", "owls/2.jpg")]
    assert Split(examples, [make_example("ants/1.jpg")], "").classes == ["Dogs", "cats", "owls"]


def test_split_of_no_examples_says_to_extract() -> None:
    with pytest.raises(
        HeadstartError, match=r"the store: expected features to train on, got none\. Run `python -m extract`"
    ):
        split_examples([], 0.2)


@pytest.mark.parametrize(
    "counts", [{"cats": 40}, {"train/cats": 3, "validation/cats": 2}], ids=["by content", "by folder"]
)
def test_split_of_one_class_names_it(counts: dict[str, int]) -> None:
    with pytest.raises(HeadstartError, match=r"expected two or more classes, got only \['cats'\]"):
        split_examples([make_example(path) for path in list_paths(counts)], 0.2)


def test_split_with_nothing_to_train_on_says_none() -> None:
    paths = list_paths({"validation/cats": 1, "validation/dogs": 1})
    with pytest.raises(HeadstartError, match=r"the training pictures: expected two or more classes, got none"):
        split_examples([make_example(path) for path in paths], 0.2)


def test_split_with_a_class_missing_from_validation_names_it() -> None:
    paths = list_paths({"train/cats": 2, "train/dogs": 2, "validation/cats": 1})
    with pytest.raises(HeadstartError, match=r"class 'dogs': .*got none to validate with"):
        split_examples([make_example(path) for path in paths], 0.2)


def test_split_with_a_class_missing_from_training_names_it() -> None:
    paths = list_paths({"train/cats": 2, "train/dogs": 2, "validation/cats": 1, "validation/dogs": 1})
    examples = [make_example(path) for path in [*paths, "validation/owls/1.jpg"]]
    with pytest.raises(HeadstartError, match=r"class 'owls': .*got none to train on"):
        split_examples(examples, 0.2)


@pytest.mark.parametrize(
    ("place", "message"),
    [(0.9, "class 'dogs': .*none to validate with"), (0.1, "class 'dogs': .*none to train on")],
)
def test_split_by_content_of_a_class_with_one_picture_names_it(place: float, message: str) -> None:
    examples = place_examples({"cats": [0.1, 0.2, 0.9], "dogs": [place], "owls": [0.1, 0.9]})
    with pytest.raises(HeadstartError, match=message):
        split_examples(examples, 0.2)
