"""Load the validation pictures that an exported model is checked on."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import IO

import numpy as np

from base.errors import HeadstartError
from base.terminal import Console
from base.urls import Location
from extract.decoding.convert import Pixels
from extract.decoding.decode import DEFAULT_POLICY, decode_within_budget
from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError, read_picture
from extract.pixels import resize_pixels
from features.store import Example
from train_head.config import MAX_PIXELS
from train_head.data.batches import Array
from train_head.export.load import MAX_PIXELS_AT_ONCE, limit_batch

BATCH_SIZE = 32
NUM_READERS = 2
"""Number of threads that decode; each holds one picture at a time."""
NUM_RAW = 4
"""Number of pictures that the exported model resizes itself; the others are resized in advance, to the same values."""

_EXPECTED = "a validation picture to check the model on"
_ADVICE = "Give `images` and `max_pixels` as for extraction, or extract and train again"


class PictureGoneError(HeadstartError):
    """Picture that can no longer be read, or whose content has changed since extraction."""


@dataclass
class Pictures:
    """Validation pictures to check a model on.

    The resized pictures are kept in a file, so that their number is not limited by memory.
    """

    folder: Location
    examples: Sequence[Example]
    """Validation pictures, in the order of `order_by_class`."""
    image_size: int
    file: IO[bytes]
    """Empty temporary file for the resized pictures."""
    num_wanted: int | None = None
    """Number of pictures to load; pictures that are gone do not count. None loads all."""
    max_pixels: int = MAX_PIXELS
    """Largest number of pixels of a picture."""
    policy: DecodePolicy = DEFAULT_POLICY
    """Rules by which the pictures were decoded for extraction."""
    loaded: list[Example] = field(default_factory=list)
    """Pictures that were loaded, in order."""
    raw: dict[int, Pixels] = field(default_factory=dict)
    """Decoded pixels of the pictures that the exported model resizes itself, by index in `loaded`."""
    gone: list[PictureGoneError] = field(default_factory=list)
    """Errors of the pictures that were skipped because they cannot be read or have changed."""

    def load(self, console: Console) -> None:
        """Read and resize the pictures; call this before a model is built, to limit peak memory.

        Raises:
            HeadstartError: a picture cannot be decoded, all pictures are gone, or the disk is full.
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
        """Yield the pictures in batches.

        Yields:
            Indices in `loaded`, and the resized pictures, (n, image_size, image_size, 3) float32 in 0-255.
        """
        self.file.seek(0)
        batch_size, num_loaded = limit_batch(BATCH_SIZE, self.image_size), len(self.loaded)
        for start in range(0, num_loaded, batch_size):
            indices = range(start, min(start + batch_size, num_loaded))
            yield indices, np.stack([np.load(self.file) for _ in indices])

    def read_raw(self, example: Example) -> Pixels:
        """Decode a loaded picture again: (height, width, 3) uint8.

        Raises:
            HeadstartError: it is gone or has changed in the meantime.
        """
        found = self._read(example)
        if isinstance(found, PictureGoneError):
            raise found
        with decode_within_budget(found, self.max_pixels, self.policy) as pixels:
            return pixels

    def _write(self, resized: Array) -> None:
        try:
            np.save(self.file, resized)
        except OSError as error:
            where, got = tempfile.gettempdir(), error.strerror or str(error)
            advice = "Free some space, or set TMPDIR to another folder"
            raise HeadstartError(where, "free space for the resized pictures", got, advice) from error

    def _read(self, example: Example) -> bytes | PictureGoneError:
        path = self.folder / example.path
        try:
            data = read_picture(path, self.max_pixels)
        except UndecodableImageError as error:
            return PictureGoneError(path, _EXPECTED, str(error), _ADVICE)
        if hashlib.sha256(data).digest() != example.content_hash:
            return PictureGoneError(path, "the picture whose features are stored", "different content", _ADVICE)
        return data

    def _load(self, example: Example) -> tuple[Array, Pixels | None] | PictureGoneError:
        data = self._read(example)
        if isinstance(data, PictureGoneError):
            return data
        try:
            with decode_within_budget(data, self.max_pixels, self.policy) as pixels:
                is_kept = example in self.examples[:NUM_RAW] and pixels[..., 0].size <= MAX_PIXELS_AT_ONCE
                return resize_pixels(pixels, self.image_size), pixels if is_kept else None
        except UndecodableImageError as error:
            raise HeadstartError(self.folder / example.path, _EXPECTED, str(error), _ADVICE) from error
