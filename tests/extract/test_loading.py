"""Read pictures ahead in threads: order, hashes, stored contents, and failures."""

from __future__ import annotations

import _thread
import errno
import hashlib
import os
import threading
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.config import ExtractConfig
from extract.decoding.convert import Pixels
from extract.load import MAX_BYTES_TOGETHER, LoadedImage, group_files, load_images, map_ahead, start_threads
from extract.views import Prepared
from features.catalog.tables import ImageRow
from tests.interrupts import handle_interrupts
from tests.pictures import draw_picture, encode

pytestmark = pytest.mark.unit


def read(
    folder: Path,
    rows: Iterable[ImageRow],
    *,
    stored: Container[bytes] = (),
    views: Sequence[int] = (0,),
    threads: int = 4,
    ahead: int = 6,
    together: int = 1,
) -> Iterator[LoadedImage]:
    def mirror(pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        return {view: pixels[:, ::-1].astype(np.float32) + view * content_hash[0] for view in views}

    def load(group: Sequence[ImageRow]) -> list[LoadedImage]:
        return load_images(group, config, mirror, lambda _, content_hash: [] if content_hash in stored else views)

    config = ExtractConfig(folder, folder / "store")
    with start_threads(threads, "read") as readers:
        for loaded in map_ahead(readers, load, group_files(rows, together), ahead):
            yield from loaded


def make_rows(folder: Path, contents: dict[str, bytes]) -> list[ImageRow]:
    rows = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        rows.append(ImageRow(name, "cats", "", len(content), 1))
    return rows


@pytest.mark.parametrize(("threads", "together"), [(1, 3), (4, 1), (4, 3)])
def test_reader_with_threads_keeps_order_hashes_and_pixels(tmp_path: Path, threads: int, together: int) -> None:
    # Every fifth picture is large, so that threads do not finish in the order in which they started.
    pictures = [draw_picture("cats", n, (400, 300) if n % 5 == 0 else (9, 7)) for n in range(25)]
    rows = make_rows(tmp_path, {f"{n}.png": encode(p) for n, p in enumerate(pictures)})

    loaded = list(read(tmp_path, rows, threads=threads, together=together))

    assert [found.image for found in loaded] == rows
    for found, picture in zip(loaded, pictures, strict=True):
        assert found.failure == ""
        assert found.content_hash == hashlib.sha256((tmp_path / found.image.path).read_bytes()).digest()
        assert list(found.views) == [0]
        np.testing.assert_array_equal(found.views[0], np.asarray(picture)[:, ::-1])


def test_reader_stored_content_is_hashed_and_not_decoded(tmp_path: Path) -> None:
    stored = hashlib.sha256(b"not decodable").digest()
    rows = make_rows(tmp_path, {"known.jpg": b"not decodable", "unknown.jpg": b"neither"})

    known, unknown = read(tmp_path, rows, stored={stored})

    assert known == LoadedImage(rows[0], stored, {}, "")
    assert unknown.failure


def test_reader_prepares_only_the_missing_views_with_the_content_hash(tmp_path: Path) -> None:
    picture = draw_picture("cats", 1)
    rows = make_rows(tmp_path, {"0.png": encode(picture)})
    first_byte = hashlib.sha256(encode(picture)).digest()[0]

    (found,) = read(tmp_path, rows, views=[2, 5])

    assert list(found.views) == [2, 5]
    for view, prepared in found.views.items():
        np.testing.assert_array_equal(prepared, np.asarray(picture)[:, ::-1].astype(int) + view * first_byte)


@pytest.mark.parametrize("together", [1, 5])
def test_reader_bad_pictures_have_reasons_and_the_others_pixels(tmp_path: Path, together: int) -> None:
    good = encode(draw_picture("dogs", 1))
    rows = make_rows(tmp_path, {"0.png": good, "1.png": b"", "2.png": b"<html>", "3.png": good[:1000], "4.png": good})

    loaded = list(read(tmp_path, rows, together=together))

    assert [len(found.views) for found in loaded] == [1, 0, 0, 0, 1]
    assert [not found.failure for found in loaded] == [True, False, False, False, True]
    for found, term in zip(loaded[1:4], ("empty", "web page", "damaged"), strict=True):
        assert term in found.failure


def test_reader_file_deleted_after_the_scan_fails_with_the_reason_of_the_system(tmp_path: Path) -> None:
    rows = make_rows(tmp_path, {"0.png": encode(draw_picture("dogs", 1)), "1.png": b"x"})
    (tmp_path / "1.png").unlink()

    gone = list(read(tmp_path, rows))[1]

    assert gone == LoadedImage(rows[1], failure=gone.failure)
    assert os.strerror(errno.ENOENT) in gone.failure


def test_reader_path_that_became_a_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "1.png").mkdir()
    (found,) = read(tmp_path, [ImageRow("1.png", "cats", "", 1, 1)])
    assert found == LoadedImage(found.image, failure=found.failure)
    assert "regular file" in found.failure.lower()


def test_reader_reads_at_most_the_given_number_ahead(tmp_path: Path) -> None:
    rows = make_rows(tmp_path, {f"{n}.png": b"" for n in range(30)})
    taken: list[str] = []

    def give() -> Iterator[ImageRow]:
        for row in rows:
            taken.append(row.path)
            yield row

    reading = read(tmp_path, give(), ahead=6)
    assert next(reading).image == rows[0]
    assert taken == [f"{n}.png" for n in range(6)]
    assert next(reading).image == rows[1]
    assert taken == [f"{n}.png" for n in range(7)]
    assert [found.image for found in reading] == rows[2:]


def test_reader_closed_half_way_ends_its_threads(tmp_path: Path) -> None:
    rows = make_rows(tmp_path, {f"{n}.png": encode(draw_picture("cats", n)) for n in range(30)})
    reading = read(tmp_path, rows)
    next(reading)

    reading.close()  # type: ignore[attr-defined]

    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("read")] == []


def test_group_files_limits_the_number_and_the_bytes_and_leaves_a_large_file_alone() -> None:
    large, half = MAX_BYTES_TOGETHER + 1, MAX_BYTES_TOGETHER // 2
    sizes = [1, 1, 1, 1, large, 1, half, half, 1, large, large]
    rows = [ImageRow(f"{n}.png", "cats", "", size, 1) for n, size in enumerate(sizes)]
    groups = list(group_files(rows, 3))
    assert [[row.num_bytes for row in group] for group in groups] == [
        [1, 1, 1],
        [1],
        [large],
        [1, half],
        [half, 1],
        [large],
        [large],
    ]
    assert [row for group in groups for row in group] == rows


def test_reader_without_images_yields_nothing(tmp_path: Path) -> None:
    assert list(read(tmp_path, [])) == []


def test_map_ahead_interrupted_during_a_submission_does_not_lose_it() -> None:
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
            _thread.interrupt_main()
            return super().submit(*arguments, **options)

    pending: deque[Future[int]] = deque()
    with handle_interrupts(), Interrupted(1) as pool, pytest.raises(KeyboardInterrupt):
        list(map_ahead(pool, abs, [-1, -2], 3, pending))
    assert len(pending) == 1
