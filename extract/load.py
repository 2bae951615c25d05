"""Load pictures for the backbone, and compute results ahead of their use in threads."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from base.signals import defer_interrupt
from extract.config import ExtractConfig
from extract.decoding.decode import DEFAULT_POLICY, decode_within_budget
from extract.decoding.memory import PixelMemory
from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError, read_picture, reserve_large_file
from extract.views import Prepare, Prepared
from features.catalog.tables import ImageRow

MAX_BYTES_TOGETHER = 2**20
"""Limit on the size of the files that one task reads; a larger file is a task of its own."""
LOW_CONTRAST = 0.25
"""Share of the range of 8 bits below which a picture has a low contrast."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class LoadedImage:
    """Result of reading one picture."""

    image: ImageRow
    content_hash: bytes = b""
    views: Prepared = field(default_factory=dict)
    """Views that are not stored yet; empty for a failed picture."""
    failure: str = ""
    """Reason why the picture is unusable, a noun phrase; empty for a usable one."""
    is_one_colour: bool = False
    has_low_contrast: bool = False
    """Whether its samples use less than `LOW_CONTRAST` of the range from 0 to 255, but more than one colour."""


ListMissing = Callable[[ImageRow, bytes], Sequence[int]]
"""Function from a picture and its content hash to the indices of the views to compute."""


def group_files(images: Iterable[ImageRow], max_pictures: int) -> Iterator[list[ImageRow]]:
    """Group pictures for `load_images`: at most `max_pictures` and `MAX_BYTES_TOGETHER`, or one larger file."""
    group: list[ImageRow] = []
    num_bytes = 0
    for image in images:
        if group and num_bytes + image.num_bytes > MAX_BYTES_TOGETHER:
            yield group
            group, num_bytes = [], 0
        group.append(image)
        num_bytes += image.num_bytes
        if len(group) == max_pictures:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def load_images(
    images: Sequence[ImageRow],
    config: ExtractConfig,
    prepare: Prepare,
    list_missing: ListMissing,
    policy: DecodePolicy = DEFAULT_POLICY,
    memory: PixelMemory | None = None,
) -> list[LoadedImage]:
    """Read and hash pictures, and decode those for whose content `list_missing` returns views to compute.

    Pictures are decoded into the arrays of `memory`, if given; the views are always new arrays.

    All pictures are read and hashed before the first is decoded, and measured after the last, so that the code of each
    step stays in the processor's cache: these steps take half as long as with one picture at a time.
    """
    loaded = [LoadedImage(image) for image in images]
    with reserve_large_file(max(image.num_bytes for image in images)):
        files = [_read(found, config) for found in loaded]
        for found, data in zip(loaded, files, strict=True):
            missing = list_missing(found.image, found.content_hash) if data is not None else []
            if data is None or not missing:
                continue
            try:
                with decode_within_budget(data, config.max_pixels, policy, memory) as pixels:
                    found.views = prepare(pixels, found.content_hash, missing)
            except UndecodableImageError as error:
                found.failure = str(error)
    for found in loaded:
        if found.views:
            found.is_one_colour, found.has_low_contrast = _measure_contrast(next(iter(found.views.values())))
    return loaded


def load_image(
    image: ImageRow,
    config: ExtractConfig,
    prepare: Prepare,
    list_missing: ListMissing,
    policy: DecodePolicy = DEFAULT_POLICY,
) -> LoadedImage:
    """Load one picture; see `load_images`."""
    return load_images([image], config, prepare, list_missing, policy)[0]


def load_view(image: ImageRow, view: int, config: ExtractConfig, prepare: Prepare, policy: DecodePolicy) -> LoadedImage:
    """Load one view of a picture; there is none if its content hash is no longer that of `image`."""

    def list_wanted(_: ImageRow, content_hash: bytes) -> list[int]:
        return [view] if content_hash == image.content_hash else []

    return load_image(image, config, prepare, list_wanted, policy)


def _read(found: LoadedImage, config: ExtractConfig) -> bytes | None:
    """Read and hash a file; return None if it is unreadable."""
    try:
        data = read_picture(config.images / found.image.path, config.max_pixels)
    except UndecodableImageError as error:
        found.failure = str(error)
        return None
    found.content_hash = hashlib.sha256(data).digest()
    return data


def _measure_contrast(view: NDArray[np.float32]) -> tuple[bool, bool]:
    """Return whether a view in [-1, 1] has one colour, and whether it has a low contrast."""
    colour = view[0, 0]
    # A few pixels, or the first row, decide for almost all pictures.
    if (view[0] == colour).all() and (view == colour).all():
        return True, False
    return False, all(part.max() - part.min() < 2 * LOW_CONTRAST for part in (view[::32, ::8], view[::8], view))


@contextmanager
def start_threads(num_threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Start threads. After an interrupt they end on their own; nothing waits for a large picture or a slow batch."""
    threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    is_interrupted = False
    try:
        yield threads
    except KeyboardInterrupt:
        is_interrupted = True
        raise
    finally:
        threads.shutdown(wait=not is_interrupted, cancel_futures=True)


def map_ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_ahead: int,
    pending: deque[Future[Result]] | None = None,
) -> Generator[Result, None, None]:
    """Yield results in the order of the items while later ones are computed; the yielded one is `pending[0]`."""
    pending = deque() if pending is None else pending
    try:
        for item in items:
            # An interrupt within `submit` would lose the item.
            with defer_interrupt():
                pending.append(pool.submit(function, item))
            if len(pending) >= num_ahead:
                yield pending[0].result()
                pending.popleft()
        while pending:
            yield pending[0].result()
            pending.popleft()
    finally:
        cancel(pending)


def cancel(futures: Iterable[Future[Any]]) -> None:
    """Cancel the futures that have not started."""
    for future in futures:
        future.cancel()
