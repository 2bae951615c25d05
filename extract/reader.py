"""Reads, hashes and decodes pictures ahead of the backbone, in threads, in a fixed order."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.pixels import Pixels, UndecodableImageError, decode_image
from features.tables import ImageRow


@dataclass(frozen=True)
class LoadedImage:
    """What came of reading one picture: its content hash, and prepared pixels or a reason."""

    image: ImageRow
    content_hash: bytes | None = None
    pixels: Any = None
    """(s, s, 3) float32 tensor; None where the content is stored already, or where it failed."""
    failure: str = ""


@dataclass(frozen=True)
class ImageReader:
    """Reads pictures with several threads, a bounded number ahead."""

    folder: Path
    prepare: Callable[[Pixels], Any]
    """From RGB pixels to what the backbone sees."""
    stored: Container[bytes]
    """Content hashes that need no decoding."""
    num_threads: int
    num_ahead: int

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
        try:
            data = (self.folder / image.path).read_bytes()
        except OSError as error:
            return LoadedImage(image, failure=f"cannot be read: {error.strerror or error}")
        content_hash = hashlib.sha256(data).digest()
        if content_hash in self.stored:
            return LoadedImage(image, content_hash)
        try:
            return LoadedImage(image, content_hash, self.prepare(decode_image(data)))
        except UndecodableImageError as error:
            return LoadedImage(image, content_hash, failure=str(error))
