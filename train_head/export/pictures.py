"""Pictures to check an exported model on: chosen by content, decoded and resized in threads."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from base.errors import HeadstartError
from extract.decode import Pixels, UndecodableImageError, hold_pixels, read_picture
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


class LoadedPicture(NamedTuple):
    """A picture to check an export on."""

    example: Example
    resized: Array
    """(image_size, image_size, 3) float32 in 0-255."""
    raw: Pixels | None
    """As decoded, where the model is to resize it itself."""


@dataclass
class Pictures:
    """Validation pictures to check a model on."""

    folder: Path
    examples: Sequence[Example]
    """In the order in which they are taken: see `order_by_class`."""
    image_size: int
    num_wanted: int | None = None
    """How many are checked, of those that are still there; None for all."""
    max_pixels: int = MAX_PIXELS
    gone: list[PictureGoneError] = field(default_factory=list)
    """Pictures that were skipped in `read_batches`: they cannot be read, or have changed."""

    def count_wanted(self) -> int:
        """Return the most pictures that are checked."""
        return min(len(self.examples), self.num_wanted or len(self.examples))

    def read_batches(self) -> Iterator[list[LoadedPicture]]:
        """Read the wanted pictures, some at a time; those that are gone or have changed are skipped.

        Raises:
            HeadstartError: a picture cannot be decoded as for its feature, or none is there any more.
        """
        remaining, num_left = iter(enumerate(self.examples)), self.count_wanted()
        with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="read") as pool:
            while chunk := list(islice(remaining, min(limit_batch(BATCH_SIZE, self.image_size), num_left))):
                results = list(pool.map(self._load, *zip(*chunk, strict=True)))
                self.gone.extend(result for result in results if isinstance(result, PictureGoneError))
                loaded = [result for result in results if not isinstance(result, PictureGoneError)]
                num_left -= len(loaded)
                if loaded:
                    yield loaded
        if num_left == self.count_wanted():
            raise self.gone[0]

    def _load(self, number: int, example: Example) -> LoadedPicture | PictureGoneError:
        path, expected = self.folder / example.path, "a validation picture to check the export on"
        advice = "Give the folder with --images, --max-pixels as in extraction, or extract and train again"
        try:
            data = read_picture(path, self.max_pixels)
        except UndecodableImageError as error:
            return PictureGoneError(path, expected, str(error), advice)
        if hashlib.sha256(data).digest() != example.content_hash:
            return PictureGoneError(path, "the picture that its feature was made from", "a changed file", advice)
        try:
            with hold_pixels(data, self.max_pixels) as pixels:
                is_kept = number < NUM_RAW and pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS_AT_ONCE
                return LoadedPicture(example, resize_pixels(pixels, self.image_size), pixels if is_kept else None)
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
