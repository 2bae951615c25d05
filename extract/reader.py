"""Reads, hashes and decodes pictures ahead of the backbone, in threads, in a fixed order."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from extract.decode import Pixels, UndecodableImageError, hold_file, hold_pixels, read_picture
from extract.views import Prepared
from features.catalog.tables import ImageRow


@dataclass(frozen=True)
class LoadedImage:
    """What came of reading one picture: its content hash, and views of it or a reason."""

    image: ImageRow
    content_hash: bytes | None = None
    views: Prepared = field(default_factory=dict)
    """What the backbone has to see; none where all is stored already, or where it failed."""
    failure: str = ""


@dataclass(frozen=True)
class ImageReader:
    """Reads pictures with several threads, a bounded number ahead."""

    folder: Path
    prepare: Callable[[Pixels, bytes, Iterable[int]], Prepared]
    """From RGB pixels, their content hash and the numbers of views to what the backbone sees."""
    list_missing: Callable[[ImageRow, bytes], Sequence[int]]
    """Which views of a picture with that content hash are not stored; where none is, it is not decoded."""
    num_threads: int
    num_ahead: int
    max_pixels: int
    """Of a picture; one that declares more is refused."""

    def read(self, images: Iterable[ImageRow]) -> Iterator[LoadedImage]:
        """Yields pictures in the order given, while later ones are being read."""
        pending: deque[Future[LoadedImage]] = deque()
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="read") as pool:
            try:
                for image in images:
                    pending.append(pool.submit(self._load, image))
                    if len(pending) >= self.num_ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _load(self, image: ImageRow) -> LoadedImage:
        content_hash = None
        try:
            with hold_file(image.num_bytes):
                data = read_picture(self.folder / image.path, self.max_pixels)
                content_hash = hashlib.sha256(data).digest()
                missing = self.list_missing(image, content_hash)
                if not missing:
                    return LoadedImage(image, content_hash)
                with hold_pixels(data, self.max_pixels) as pixels:
                    return LoadedImage(image, content_hash, self.prepare(pixels, content_hash, missing))
        except UndecodableImageError as error:
            return LoadedImage(image, content_hash, failure=str(error))
