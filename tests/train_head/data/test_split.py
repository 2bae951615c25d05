"""Splits into training and validation: by folder, by content hash, and errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from features.catalog.tables import ImageRow
from features.schema import ImageStatus
from features.store import Example
from tests.errors import raises
from tests.train_head.synthetic import list_paths, make_example, place_hash
from train_head.data.folds import split_into_folds
from train_head.data.split import Split, order_by_class, split_by_content, split_examples

pytestmark = pytest.mark.unit


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


def test_split_sorts_by_content_then_label_then_path() -> None:
    rng = np.random.default_rng(3)
    contents = [rng.bytes(32) for _ in range(6)]
    named: list[tuple[str, bytes | None]] = [
        (f"train/{label}/{n}.jpg", contents[n]) for n in range(6) for label in ("dogs", "cats")
    ]
    named += [("train/cats/again.jpg", contents[0])]
    named += [
        (f"{folder}/{label}/{n}.jpg", None)
        for folder in ("validation", "test")
        for label in ("dogs", "cats")
        for n in range(4)
    ]
    examples = [make_example(path, content) for path, content in named]
    first = split_examples(examples, 0.2)
    for part in (first.train, first.validation, first.test):
        assert part == sorted(part, key=lambda example: (example.content_hash, example.label, example.path))
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


def test_split_without_validation_folder_holds_out_training_pictures() -> None:
    examples = [e._replace(path=f"train/{e.path}", split="train") for e in draw_examples(60)]
    test = [make_example(path) for path in list_paths({"test/cats": 1, "test/dogs": 2})]
    split = split_examples([*test, *examples], 0.3)
    assert split == replace(split_by_content(examples, 0.3), test=split.test)
    assert list_paths_of(split.test) == list_paths_of(test)
    assert split.rule == "content hash, 0.3 set aside"


@pytest.mark.parametrize("status", [ImageStatus.PENDING, ImageStatus.FAILED])
@pytest.mark.parametrize("with_test", [False, True])
def test_split_with_a_validation_folder_without_features_raises(status: ImageStatus, with_test: bool) -> None:
    done = list_paths({"train/cats": 9, "train/dogs": 9} | ({"test/cats": 3, "test/dogs": 3} if with_test else {}))
    waiting = list_paths({"validation/cats": 2, "validation/dogs": 2})
    images = [*map(make_image, done), *(make_image(path, status) for path in waiting)]
    with raises(HeadstartError, where="the folder validation/") as caught:
        split_examples([make_example(path) for path in done], 0.2, images)
    assert "4" in caught.value.got


def test_split_with_a_partly_extracted_validation_folder_uses_that_part() -> None:
    done = list_paths({"train/cats": 2, "train/dogs": 2, "validation/cats": 1, "validation/dogs": 1})
    images = [*map(make_image, done), make_image("validation/cats/9.jpg", ImageStatus.PENDING)]
    split = split_examples([make_example(path) for path in done], 0.2, images)
    assert list_paths_of(split.validation) == ["validation/cats/00.jpg", "validation/dogs/00.jpg"]


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_split_without_validation_folder_equals_split_by_content(prefix: str) -> None:
    examples = [e._replace(path=prefix + e.path, split=prefix.strip("/")) for e in draw_examples(60)]
    split = split_examples(examples, 0.3)
    assert split == split_by_content(examples, 0.3)
    assert split.rule == "content hash, 0.3 set aside"
    assert list_paths_of(split.train + split.validation) == list_paths_of(examples)


def test_split_by_content_holds_out_hashes_below_the_share() -> None:
    places = {"cats": [0.0, 0.2499, 0.25, 0.9999], "dogs": [0.1, 0.7]}
    split = split_by_content(place_examples(places), 0.25)
    assert list_paths_of(split.validation) == ["cats/0.jpg", "cats/1.jpg", "dogs/0.jpg"]
    assert list_paths_of(split.train) == ["cats/2.jpg", "cats/3.jpg", "dogs/1.jpg"]


def test_split_by_content_does_not_depend_on_other_examples() -> None:
    examples = draw_examples(400)
    held_out = set(split_by_content(examples, 0.2).validation)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        fewer = [example for example in examples if rng.random() < 0.5]
        more = [e._replace(path=f"new/{e.path}") for e in draw_examples(100, seed=1000 + seed)] + examples
        assert set(split_by_content(fewer, 0.2).validation) == held_out & set(fewer)
        assert set(split_by_content(more, 0.2).validation) & set(examples) == held_out


def test_split_by_content_does_not_depend_on_names_or_order() -> None:
    examples = draw_examples(200)
    renamed = [
        example._replace(path=f"{example.label}/renamed-{number}.png")
        for number, example in enumerate(reversed(examples))
    ]
    before, after = split_by_content(examples, 0.2), split_by_content(renamed, 0.2)
    assert {e.content_hash for e in before.validation} == {e.content_hash for e in after.validation}
    assert len(before.validation) == len(after.validation)


def test_split_by_content_keeps_duplicates_together() -> None:
    examples = draw_examples(100)
    copies = [e._replace(path=f"{e.label}/copy/{number}.jpg") for number, e in enumerate(examples)]
    split = split_by_content(examples + copies, 0.2)
    assert split.count_leaks() == 0
    assert len(split.validation) == 2 * len(split_by_content(examples, 0.2).validation)


def test_split_by_content_keeps_duplicates_of_two_classes_together() -> None:
    examples = [
        *place_examples({"cats": [0.1, 0.5, 0.6], "dogs": [0.15, 0.7, 0.8]}),
        make_example("dogs/same-as-cat-0.jpg", place_hash(0.1)),
        make_example("cats/same-as-dog-1.jpg", place_hash(0.7)),
    ]
    split = split_examples(examples, 0.2)
    assert list_paths_of(split.validation) == ["cats/0.jpg", "dogs/0.jpg", "dogs/same-as-cat-0.jpg"]
    assert split.count_leaks() == 0


def test_split_by_content_of_two_pictures_per_class_has_one_of_each_class_in_both_parts() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        examples = [
            make_example(f"{label}/{number}.jpg", rng.bytes(32))
            for label in ("cats", "dogs", "owls")
            for number in range(2)
        ]
        split = split_examples(examples, 0.2)
        assert sorted(e.label for e in split.train) == ["cats", "dogs", "owls"]
        assert sorted(e.label for e in split.validation) == ["cats", "dogs", "owls"]


def test_split_by_content_of_large_hashes_holds_out_the_smallest_with_its_duplicates() -> None:
    examples = place_examples({"cats": [0.9, 0.3, 0.5, 0.3], "dogs": [0.1, 0.8]})
    split = split_by_content(examples, 0.2)
    assert list_paths_of(split.validation) == ["cats/1.jpg", "cats/3.jpg", "dogs/0.jpg"]
    assert list_paths_of(split.train) == ["cats/0.jpg", "cats/2.jpg", "dogs/1.jpg"]


def test_split_by_content_of_small_hashes_trains_on_the_largest_with_its_duplicates() -> None:
    examples = place_examples({"cats": [0.15, 0.01, 0.15, 0.1], "dogs": [0.1, 0.8]})
    split = split_by_content(examples, 0.2)
    assert list_paths_of(split.train) == ["cats/0.jpg", "cats/2.jpg", "dogs/1.jpg"]
    assert list_paths_of(split.validation) == ["cats/1.jpg", "cats/3.jpg", "dogs/0.jpg"]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_split_by_content_of_2000_pictures_holds_out_about_the_share(share: float) -> None:
    split = split_by_content(draw_examples(2000), share)
    assert len(split.validation) / 2000 == pytest.approx(share, abs=0.025)
    assert len(split.train) + len(split.validation) == 2000


def test_count_leaks_counts_each_validation_copy() -> None:
    train = [make_example("train/cats/a.jpg", place_hash(0.1)), make_example("train/dogs/b.jpg")]
    validation = [
        make_example("validation/cats/a.jpg", place_hash(0.1)),
        make_example("validation/cats/a-again.jpg", place_hash(0.1)),
        make_example("validation/dogs/c.jpg"),
    ]
    assert split_examples(train + validation, 0.2).count_leaks() == 2


def test_split_classes_are_sorted_training_labels() -> None:
    examples = [make_example(path) for path in ("owls/1.jpg", "Dogs/1.jpg", "cats/1.jpg", "owls/2.jpg")]
    assert Split(examples, [make_example("ants/1.jpg")], "").classes == ["Dogs", "cats", "owls"]


def test_split_of_no_examples_raises() -> None:
    with raises(HeadstartError, where="the store", got="none"):
        split_examples([], 0.2)


@pytest.mark.parametrize(
    ("counts", "got"),
    [
        pytest.param({"cats": 40}, "cats", id="by-content"),
        pytest.param({"train/cats": 3, "validation/cats": 2}, "cats", id="by-folder"),
        pytest.param({"validation/cats": 1, "validation/dogs": 1}, "none", id="no-training-pictures"),
    ],
)
def test_split_with_fewer_than_two_training_classes_raises(counts: dict[str, int], got: str) -> None:
    with raises(HeadstartError, where="the training pictures") as caught:
        split_examples([make_example(path) for path in list_paths(counts)], 0.2)
    assert got in caught.value.got


@pytest.mark.parametrize(
    ("counts", "label", "missing"),
    [
        pytest.param({"train/cats": 2, "train/dogs": 2, "validation/cats": 1}, "dogs", "validation", id="validation"),
        pytest.param(
            {**{"train/cats": 2, "train/dogs": 2}, **{f"validation/{label}": 1 for label in ("cats", "dogs", "owls")}},
            "owls",
            "training",
            id="training",
        ),
    ],
)
def test_split_with_a_class_missing_from_a_folder_raises_with_its_label(
    counts: dict[str, int], label: str, missing: str
) -> None:
    with raises(HeadstartError, where=f"class '{label}'") as caught:
        split_examples([make_example(path) for path in list_paths(counts)], 0.2)
    assert missing in caught.value.got


@pytest.mark.parametrize(("place", "missing"), [(0.9, "validation"), (0.1, "training")])
def test_split_by_content_of_a_class_with_one_picture_raises_with_its_label(place: float, missing: str) -> None:
    examples = place_examples({"cats": [0.1, 0.2, 0.9], "dogs": [place], "owls": [0.1, 0.9]})
    with raises(HeadstartError, where="class 'dogs'") as caught:
        split_examples(examples, 0.2)
    assert missing in caught.value.got


def test_split_into_folds_holds_out_each_picture_once_by_class() -> None:
    examples = [
        make_example(path, place_hash(number / 100))
        for number, path in enumerate(list_paths({"cats": 11, "dogs": 8, "owls": 3}))
    ]
    # A copy of the first cat among the dogs.
    examples.append(make_example("dogs/copy.jpg", place_hash(0.0)))
    folds = split_into_folds(split_by_content(examples, 0.2), 3)
    held_out = [{example.path for example in fold.validation} for fold in folds]
    assert sorted(path for paths in held_out for path in paths) == list_paths_of(examples)
    for fold in folds:
        assert fold.count_leaks() == 0
        assert list_paths_of(fold.train + fold.validation) == list_paths_of(examples)
        assert fold.train == sorted(fold.train, key=lambda example: (example.content_hash, example.label))
    copies = {"cats/00.jpg", "dogs/copy.jpg"}
    assert sorted(len(paths & copies) for paths in held_out) == [0, 0, 2]
    counts = [
        [sum(path.startswith(label) for path in paths - copies) for label in ("c", "d", "o")] for paths in held_out
    ]
    # 10 cats besides the first, 8 dogs and 3 owls: each class starts at the fold after the end of the one before.
    assert counts == [[3, 3, 1], [4, 2, 1], [3, 3, 1]]
    assert [fold.rule for fold in folds] == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]


@pytest.mark.parametrize(("num_folds", "limit"), [(1, "2"), (-1, "2"), (4, "3")])
def test_split_into_too_few_or_too_many_folds_raises_with_the_limit(num_folds: int, limit: str) -> None:
    split = split_by_content([make_example(path) for path in list_paths({"cats": 11, "owls": 3})], 0.2)
    with raises(UsageError, where="--folds", got=num_folds) as caught:
        split_into_folds(split, num_folds)
    assert limit in caught.value.expected


def test_split_into_as_many_folds_as_pictures_leaves_one_out() -> None:
    split = split_by_content([make_example(path) for path in list_paths({"cats": 3, "owls": 3})], 0.2)
    assert [len(fold.validation) for fold in split_into_folds(split, 3)] == [2, 2, 2]
    assert [len(fold.validation) for fold in split_into_folds(split, 2)] == [3, 3]


def test_order_by_class_keeps_the_share_of_each_class_in_any_prefix() -> None:
    examples = [make_example(f"{'owls' if number % 10 == 0 else 'cats'}/{number}.jpg") for number in range(200)]
    ordered = order_by_class(examples)
    assert sorted(ordered, key=lambda e: e.path) == sorted(examples, key=lambda e: e.path)
    for num in (2, 20, 50, 100):
        assert sum(e.label == "owls" for e in ordered[:num]) == pytest.approx(num / 10, abs=1)
    assert {e.label for e in ordered[:2]} == {"cats", "owls"}
    for label in ("cats", "owls"):
        hashes = [e.content_hash for e in ordered if e.label == label]
        assert hashes == sorted(hashes)


def test_order_by_class_depends_on_content_only() -> None:
    examples = [make_example(f"{label}/{number}.jpg") for label in ("cats", "dogs") for number in range(30)]
    moved = [e._replace(path=f"{e.label}/x{99 - n}.jpg", shard=9 - n % 3, row=n) for n, e in enumerate(examples)]
    first = [e.content_hash for e in order_by_class(examples)]
    assert [e.content_hash for e in order_by_class(moved[::-1])] == first
