"""Compare the scanned folder with the catalog: the pictures to read, to keep and to remove."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import pytest

from extract.plan import KnownStore, Plan, merge_images_to_read, plan_images
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, ImageStatus

pytestmark = pytest.mark.unit

HASH = hashlib.sha256(b"content").digest()
FILE = ImageRow("cats/1.jpg", "cats", "", num_bytes=100, modified_ns=7)
ROW = ImageRow("cats/1.jpg", "cats", "", 100, 7, HASH, ImageStatus.DONE)
NOT_READ = ImageRow("cats/1.jpg", "cats", "", 100, 7)


def holds_all(_: FeatureKey) -> bool:
    return True


def make_plan(files: list[ImageRow], known: list[ImageRow], *, rehash: bool = False) -> Plan:
    """Plan for a store that has all features of its pictures."""
    return plan_images(files, KnownStore(known, holds_all), rehash=rehash)


def test_plan_unchanged_image_keeps_its_hash_and_is_not_read() -> None:
    assert make_plan([FILE], [ROW]) == Plan(unchanged=[ROW], to_read=[], gone=[])


def test_plan_new_image_is_read() -> None:
    assert make_plan([FILE], []) == Plan(unchanged=[], to_read=[NOT_READ], gone=[])


@pytest.mark.parametrize("change", [{"num_bytes": 101}, {"modified_ns": 8}, {"modified_ns": 6}])
def test_plan_image_with_another_size_or_time_is_read_again(change: dict[str, int]) -> None:
    today = FILE._replace(num_bytes=change.get("num_bytes", 100), modified_ns=change.get("modified_ns", 7))
    plan = make_plan([today], [ROW])
    expected = ImageRow("cats/1.jpg", "cats", "", today.num_bytes, today.modified_ns, None, ImageStatus.PENDING)
    assert (plan.unchanged, plan.to_read, plan.gone) == ([], [expected], [])


@pytest.mark.parametrize("status", [ImageStatus.DONE, ImageStatus.FAILED])
def test_plan_image_with_another_time_keeps_its_status_until_it_is_read(status: ImageStatus) -> None:
    known = ROW._replace(status=status)
    today = FILE._replace(modified_ns=8, label="dogs")
    plan = make_plan([today], [known])
    assert plan.rows == [known._replace(label="dogs")]
    assert make_plan([today], plan.rows).to_read == plan.to_read


def test_plan_image_with_another_size_is_pending_until_it_is_read() -> None:
    plan = make_plan([FILE._replace(num_bytes=101)], [ROW])
    assert plan.rows == [NOT_READ._replace(num_bytes=101)]


def test_plan_missing_images_are_listed_by_path() -> None:
    others = [ROW._replace(path="dogs/2.jpg"), ROW._replace(path="cats/0.jpg")]
    plan = make_plan([FILE], [*others, ROW])
    assert plan == Plan(unchanged=[ROW], to_read=[], gone=["cats/0.jpg", "dogs/2.jpg"])


def test_plan_image_with_another_label_and_split_keeps_its_hash() -> None:
    today = FILE._replace(label="dogs", split="validation")
    plan = make_plan([today], [ROW])
    assert plan.unchanged == [ROW._replace(label="dogs", split="validation")]
    assert plan.to_read == []


def test_plan_image_moved_to_another_class_is_read_at_its_new_path() -> None:
    today = FILE._replace(path="dogs/1.jpg", label="dogs")
    plan = make_plan([today], [ROW])
    assert plan == Plan([], [NOT_READ._replace(path="dogs/1.jpg", label="dogs")], ["cats/1.jpg"])


@pytest.mark.parametrize("status", [ImageStatus.FAILED, ImageStatus.PENDING])
def test_plan_failed_and_pending_images_are_read_again(status: ImageStatus) -> None:
    known = ROW._replace(content_hash=None, status=status, reason="the file is empty")
    assert make_plan([FILE], [known]).to_read == [NOT_READ]


def test_plan_with_rehash_reads_unchanged_images() -> None:
    plan = make_plan([FILE], [ROW], rehash=True)
    assert (plan.unchanged, plan.to_read, plan.gone) == ([], [NOT_READ], [])


def test_plan_rows_are_all_images_of_the_folder() -> None:
    new = FILE._replace(path="dogs/2.jpg", label="dogs")
    plan = make_plan([FILE, new], [ROW, ROW._replace(path="cats/gone.jpg")])
    assert plan.rows == [NOT_READ._replace(path="dogs/2.jpg", label="dogs")]


def test_plan_reading_order_depends_only_on_the_hashes_of_the_paths() -> None:
    files = [
        FILE._replace(path=f"{label}/{number}.jpg", label=label) for label in ("cats", "dogs") for number in range(20)
    ]
    expected = sorted((file.path for file in files), key=lambda path: hashlib.sha256(path.encode()).digest())

    one = make_plan(files, [])
    two = make_plan(files[::-1], [])

    assert [row.path for row in one.to_read] == expected
    assert one == two


def test_plan_reading_order_mixes_the_classes() -> None:
    files = [
        FILE._replace(path=f"{label}/{number}.jpg", label=label) for label in ("cats", "dogs") for number in range(200)
    ]
    labels = [row.label for row in make_plan(files, []).to_read]
    assert 70 <= labels[:200].count("cats") <= 130


def test_plan_path_that_is_not_utf8_is_read() -> None:
    path = os.fsdecode(b"cats/f\xfcr.jpg")
    assert make_plan([FILE._replace(path=path)], []).to_read == [NOT_READ._replace(path=path)]


def make_row(path: str, split: str = "train") -> ImageRow:
    content_hash = hashlib.sha256(path.encode()).digest()
    return ROW._replace(path=path, split=split, content_hash=content_hash)


@pytest.mark.parametrize(
    ("images", "holds"),
    [
        ([], holds_all),
        ([ROW._replace(content_hash=None, status=ImageStatus.PENDING)], holds_all),
        ([ROW._replace(modified_ns=8)], holds_all),
        ([ROW], lambda _: False),
    ],
)
def test_plan_image_that_one_store_lacks_is_read_and_unchanged_in_the_other(
    images: list[ImageRow], holds: Callable[[FeatureKey], bool]
) -> None:
    whole, lacking = (plan_images([FILE], store) for store in (KnownStore([ROW], holds_all), KnownStore(images, holds)))
    assert whole == Plan([ROW], [], [])
    assert (lacking.unchanged, lacking.to_read, lacking.gone) == ([], [NOT_READ], [])
    assert merge_images_to_read([whole, lacking]) == merge_images_to_read([lacking, whole]) == [NOT_READ]


def test_merge_images_to_read_lists_each_image_once_in_the_reading_order() -> None:
    rows = [make_row(f"{number}.jpg") for number in range(9)]
    plans = [Plan([], rows[:6], []), Plan([], rows[3:][::-1], [])]
    expected = sorted(rows, key=lambda row: hashlib.sha256(row.path.encode()).digest())
    assert merge_images_to_read(plans) == merge_images_to_read(plans[::-1]) == expected


def test_plan_num_missing_counts_views_that_are_not_stored() -> None:
    known, whole = make_row("1.jpg"), make_row("2.jpg")
    held = {FeatureKey(row.content_hash or b"", view) for row, num in ((known, 2), (whole, 3)) for view in range(num)}
    files = [
        make_file(known),
        make_file(whole),
        make_file(make_row("3.jpg")),
        make_file(make_row("4.jpg", "validation")),
    ]
    assert plan_images(files, KnownStore([known, whole], held.__contains__), 3).num_missing == 1 + 0 + 3 + 1
    assert plan_images(files, KnownStore([known, whole], lambda _: False), 3).num_missing == 3 + 3 + 3 + 1


def make_file(row: ImageRow) -> ImageRow:
    return ImageRow(row.path, row.label, row.split, row.num_bytes, row.modified_ns)


def read_with(rows: list[ImageRow], missing: set[FeatureKey], num_views: int) -> Plan:
    return plan_images(map(make_file, rows), KnownStore(rows, lambda key: key not in missing), num_views)


def test_plan_image_without_view_0_is_pending() -> None:
    lost, sound = make_row("1.jpg"), make_row("2.jpg")
    plan = read_with([lost, sound], {FeatureKey(lost.content_hash or b"", 0)}, 3)
    expected = lost._replace(content_hash=None, status=ImageStatus.PENDING)
    assert plan == Plan([sound], [expected], [])


@pytest.mark.parametrize("view", [1, 2])
@pytest.mark.parametrize("split", ["", "train"])
def test_plan_image_without_an_augmentation_is_read_and_stays_done(view: int, split: str) -> None:
    row = make_row("1.jpg", split)
    missing = {FeatureKey(row.content_hash or b"", view)}
    assert read_with([row], missing, 3) == Plan([], [row], [])
    assert read_with([row], missing, view) == Plan([row], [], []), "the missing view is not requested"
    assert row.status is ImageStatus.DONE
    assert row.content_hash is not None


def test_plan_validation_image_needs_no_augmentations() -> None:
    row = make_row("1.jpg", "validation")
    missing = {FeatureKey(row.content_hash or b"", view) for view in (1, 2)}
    assert read_with([row], missing, 3) == Plan([row], [], [])


def test_plan_reads_new_changed_and_incomplete_images_in_the_reading_order() -> None:
    rows = [make_row(f"{number}.jpg") for number in range(20)]
    known = [row._replace(modified_ns=8) for row in rows[:5]] + rows[10:]
    missing = {FeatureKey(row.content_hash or b"", number % 2) for number, row in enumerate(rows[::3])}
    plan = plan_images(map(make_file, rows), KnownStore(known, lambda key: key not in missing), 2)
    expected = {row.path for row in [*rows[:10], *rows[12::3]]}
    assert [row.path for row in plan.to_read] == sorted(expected, key=lambda p: hashlib.sha256(p.encode()).digest())
    assert {row.path for row in plan.unchanged} == {row.path for row in rows} - expected
