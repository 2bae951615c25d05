"""Load pictures for the backbone, and compute results ahead of their use in threads."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from extract.config import ExtractConfig
from extract.decoding.decode import DEFAULT_POLICY, decode_within_budget
from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError, lock_large_file, read_picture
from extract.views import Prepare, Prepared
from features.catalog.tables import ImageRow

LOW_CONTRAST = 0.25
"""Share of the range of 8 bits below which a picture has a low contrast."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
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


def load_image(
    image: ImageRow,
    config: ExtractConfig,
    prepare: Prepare,
    list_missing: Callable[[ImageRow, bytes], Sequence[int]],
    policy: DecodePolicy = DEFAULT_POLICY,
) -> LoadedImage:
    """Read and hash a picture, and decode it if `list_missing` returns views to compute for its content."""
    content_hash = b""
    try:
        with lock_large_file(image.num_bytes):
            data = read_picture(config.images / image.path, config.max_pixels)
            content_hash = hashlib.sha256(data).digest()
            missing = list_missing(image, content_hash)
            if not missing:
                return LoadedImage(image, content_hash)
            with decode_within_budget(data, config.max_pixels, policy) as pixels:
                views = prepare(pixels, content_hash, missing)
    except UndecodableImageError as error:
        return LoadedImage(image, content_hash, failure=str(error))
    is_one_colour, has_low_contrast = _measure_contrast(next(iter(views.values())))
    return LoadedImage(image, content_hash, views, "", is_one_colour, has_low_contrast)


def _measure_contrast(view: NDArray[np.float32]) -> tuple[bool, bool]:
    """Return whether a view in [-1, 1] has one colour, and whether it has a low contrast."""
    colour = view[0, 0]
    # The first row, and every eighth, decide for almost all pictures.
    if (view[0] == colour).all() and (view == colour).all():
        return True, False
    return False, all(part.max() - part.min() < 2 * LOW_CONTRAST for part in (view[::8], view))


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
