"""Pictures to check an exported model on: chosen by content, decoded and resized in threads."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from base.errors import HeadstartError
from base.terminal import Console
from extract.decode import Pixels, UndecodableImageError, decode_within_budget, read_picture
from extract.pixels import resize_pixels
from features.store import Example
from train_head.config import MAX_PIXELS
from train_head.data.batches import Array
from train_head.export.load import MAX_PIXELS_AT_ONCE, limit_batch

BATCH_SIZE = 32
NUM_READERS = 2
"""Threads that decode, each one picture at a time."""
NUM_RAW = 4
"""Pictures that the model resizes itself; the others are resized before, to the same values."""


class PictureGoneError(HeadstartError):
    """A picture that cannot be read any more, or is another than its feature was made from."""


@dataclass
class Pictures:
    """Validation pictures to check a model on; resized, they wait in a file, so that any number fits in memory."""

    folder: Path
    examples: Sequence[Example]
    """In the order in which they are taken: see `order_by_class`."""
    image_size: int
    file: IO[bytes]
    """An empty temporary file."""
    num_wanted: int | None = None
    """How many are checked, of those that are still there; None for all."""
    max_pixels: int = MAX_PIXELS
    loaded: list[Example] = field(default_factory=list)
    raw: dict[int, Pixels] = field(default_factory=dict)
    """Pictures as decoded, by their place in `loaded`, which the model is to resize itself."""
    gone: list[PictureGoneError] = field(default_factory=list)
    """Pictures that were skipped: they cannot be read, or have changed."""

    def load(self, console: Console) -> None:
        """Read the pictures, before any model takes memory.

        Raises:
            HeadstartError: a picture cannot be decoded as for its feature, none is there any more, or there is no room.
        """
        num_wanted = min(len(self.examples), self.num_wanted or len(self.examples))
        batch_size, remaining = limit_batch(BATCH_SIZE, self.image_size), iter(self.examples)
        with (
            ThreadPoolExecutor(NUM_READERS, thread_name_prefix="read") as pool,
            console.progress("read", num_wanted, "pictures") as progress,
        ):
            while chunk := list(islice(remaining, min(batch_size, num_wanted - len(self.loaded)))):
                for example, found in zip(chunk, pool.map(self._load, chunk), strict=True):
                    if isinstance(found, PictureGoneError):
                        self.gone.append(found)
                        continue
                    resized, pixels = found
                    if pixels is not None:
                        self.raw[len(self.loaded)] = pixels
                    self.loaded.append(example)
                    self._write(resized)
                    progress.advance(1)
        if not self.loaded:
            raise self.gone[0]

    def read_batches(self) -> Iterator[tuple[range, Array]]:
        """Yield places in `loaded`, and their resized pictures, (n, image_size, image_size, 3) float32 in 0-255."""
        self.file.seek(0)
        batch_size, num_loaded = limit_batch(BATCH_SIZE, self.image_size), len(self.loaded)
        for start in range(0, num_loaded, batch_size):
            places = range(start, min(start + batch_size, num_loaded))
            yield places, np.stack([np.load(self.file) for _ in places])

    def _write(self, resized: Array) -> None:
        try:
            np.save(self.file, resized)
        except OSError as error:
            where, got = tempfile.gettempdir(), error.strerror or str(error)
            raise HeadstartError(where, "room for the resized pictures", got, "Make room, or set TMPDIR") from error

    def _load(self, example: Example) -> tuple[Array, Pixels | None] | PictureGoneError:
        path, expected = self.folder / example.path, "a validation picture to check the export on"
        advice = "Give the folder with --images, --max-pixels as in extraction, or extract and train again"
        try:
            data = read_picture(path, self.max_pixels)
        except UndecodableImageError as error:
            return PictureGoneError(path, expected, str(error), advice)
        if hashlib.sha256(data).digest() != example.content_hash:
            return PictureGoneError(path, "the picture that its feature was made from", "a changed file", advice)
        try:
            with decode_within_budget(data, self.max_pixels) as pixels:
                is_kept = example in self.examples[:NUM_RAW] and pixels[..., 0].size <= MAX_PIXELS_AT_ONCE
                return resize_pixels(pixels, self.image_size), pixels if is_kept else None
        except UndecodableImageError as error:
            raise HeadstartError(path, expected, str(error), advice) from error


def order_by_class(examples: Sequence[Example]) -> list[Example]:
    """Order pictures so that the first ones are a sample of each class in proportion, chosen by content alone.

    The first picture of each class comes before the second of any.
    """
    sizes, ranks = Counter(example.label for example in examples), Counter[str]()
    places: list[tuple[tuple[bool, float], Example]] = []
    for example in sorted(examples, key=lambda e: (e.content_hash, e.path)):
        rank = ranks[example.label]
        places.append(((rank > 0, (rank + 0.5) / sizes[example.label]), example))
        ranks[example.label] += 1
    return [example for _, example in sorted(places, key=lambda place: place[0])]
