"""Pictures to check an exported model on: chosen by content, read in threads, resized one by one."""

from __future__ import annotations

import ctypes
import hashlib
import io
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from base.errors import HeadstartError
from base.terminal import Console
from extract.decode import FORMATS, LARGE_PIXELS, Pixels, UndecodableImageError, decode_image, read_picture
from extract.pixels import resize_pixels
from features.store import Example
from train_head.config import MAX_PIXELS
from train_head.data.batches import Array
from train_head.export.model import MAX_PIXELS_AT_ONCE

BATCH_SIZE = 32
NUM_READERS = 2
"""Threads that decode, each one picture at a time."""
NUM_RAW = 4
"""Pictures that the model resizes itself; the others are resized before, to the same values."""
_TODO = "Give the folder with --images, --max-pixels as in extraction, or extract and train again"


class PictureGoneError(HeadstartError):
    """A picture that cannot be read any more, or is another than its feature was made from."""


@dataclass(frozen=True)
class Pictures:
    """Validation pictures to check a model on."""

    folder: Path
    examples: Sequence[Example]
    """In the order in which they are taken: see `order_by_class`."""
    num_wanted: int | None = None
    """How many are checked, of those that are still there; None for all."""
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class LoadedPictures:
    """Pictures that were read and resized; they wait in a temporary file, so that any number fits in memory."""

    image_size: int
    file: BinaryIO
    """(n, image_size, image_size, 3) float32 in 0-255."""
    examples: list[Example] = field(default_factory=list)
    raw: dict[int, Pixels] = field(default_factory=dict)
    """Pictures as decoded, by row, which the model is to resize itself."""
    gone: list[PictureGoneError] = field(default_factory=list)
    """What is wrong with the pictures that were passed over."""

    def read_batches(self) -> Iterator[tuple[range, Array]]:
        """Yield rows and their resized pictures, (n, image_size, image_size, 3)."""
        shape = (self.image_size, self.image_size, 3)
        num_at_once = max(1, min(BATCH_SIZE, MAX_PIXELS_AT_ONCE // self.image_size**2))
        self.file.seek(0)
        for start in range(0, len(self.examples), num_at_once):
            rows = range(start, min(start + num_at_once, len(self.examples)))
            data = self.file.read(4 * len(rows) * int(np.prod(shape)))
            yield rows, np.frombuffer(data, np.float32).reshape(-1, *shape)


@contextmanager
def load_pictures(pictures: Pictures, image_size: int, console: Console) -> Iterator[LoadedPictures]:
    """Read pictures in their order, before any model takes memory; those that are gone or have changed are passed over.

    Args:
        pictures: what to read.
        image_size: the side to resize to, in pixels.
        console: where progress goes.

    Raises:
        HeadstartError: a picture cannot be decoded as for its feature, none is there any more, or there is no room.
    """
    num_wanted = min(len(pictures.examples), pictures.num_wanted or len(pictures.examples))
    with tempfile.TemporaryFile() as file:
        loaded = LoadedPictures(image_size, file)
        with console.progress("read", num_wanted, "pictures") as progress:
            for example, resized, pixels in islice(_read(pictures, loaded), num_wanted):
                _write(file, resized)
                if pixels is not None:
                    loaded.raw[len(loaded.examples)] = pixels
                loaded.examples.append(example)
                progress.advance(1)
        if not loaded.examples:
            raise loaded.gone[0]
        yield loaded


def _write(file: BinaryIO, resized: Array) -> None:
    try:
        file.write(resized.tobytes())
    except OSError as error:
        where, expected = tempfile.gettempdir(), "room for the resized pictures"
        raise HeadstartError(where, expected, error.strerror or str(error), "Make room, or set TMPDIR") from error


def order_by_class(examples: Sequence[Example]) -> list[Example]:
    """Order pictures so that the first ones are a sample of each class in proportion, chosen by content alone.

    The first picture of each class comes before the second of any.
    """
    by_class: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda e: (e.content_hash, e.path)):
        by_class.setdefault(example.label, []).append(example)
    places = {
        (rank > 0, (rank + 0.5) / len(found), example.content_hash, example.path): example
        for found in by_class.values()
        for rank, example in enumerate(found)
    }
    return [places[place] for place in sorted(places)]


def read_unchanged(folder: Path, example: Example, max_pixels: int = MAX_PIXELS) -> bytes:
    """Read a picture's file, and make sure that it is the one that the stored feature was made from.

    Raises:
        PictureGoneError: it cannot be read, or is another.
    """
    path = folder / example.path
    try:
        data = read_picture(path, max_pixels)
    except UndecodableImageError as error:
        raise PictureGoneError(path, "a validation picture to check the export on", str(error), _TODO) from error
    if hashlib.sha256(data).digest() != example.content_hash:
        raise PictureGoneError(path, "the picture that its feature was made from", "a changed file", _TODO)
    return data


def decode_unchanged(folder: Path, example: Example, data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode a picture as it was decoded for its feature.

    Raises:
        HeadstartError: it cannot be decoded.
    """
    try:
        return decode_image(data, max_pixels)
    except UndecodableImageError as error:
        expected = "a validation picture to check the export on"
        raise HeadstartError(folder / example.path, expected, str(error), _TODO) from error


def is_large(data: bytes) -> bool:
    """Return whether a picture takes so much memory that it has to be decoded alone."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height > LARGE_PIXELS
    except Exception:
        # Pillow's parsers raise many kinds of errors; decoding gives the reason.
        return True


def _release_memory() -> None:
    """Return freed memory to the system. glibc keeps what each thread has freed: of a picture up to 400 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _read(pictures: Pictures, loaded: LoadedPictures) -> Iterator[tuple[Example, Array, Pixels | None]]:
    """Yield pictures, resized and where wanted as decoded, from threads; add those that are gone to `loaded`."""
    turn = threading.Lock()

    def load(example: Example, is_raw: bool) -> tuple[Example, Array, Pixels | None]:
        data = read_unchanged(pictures.folder, example, pictures.max_pixels)
        if is_large(data):
            with turn:
                resized = resize_pixels(
                    decode_unchanged(pictures.folder, example, data, pictures.max_pixels), loaded.image_size
                )
                _release_memory()
            return example, resized, None
        pixels = decode_unchanged(pictures.folder, example, data, pictures.max_pixels)
        is_kept = is_raw and pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS_AT_ONCE
        return example, resize_pixels(pixels, loaded.image_size), pixels if is_kept else None

    coming = iter(enumerate(pictures.examples))
    pending: deque[Future[tuple[Example, Array, Pixels | None]]] = deque()
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="read") as pool:
        try:
            while True:
                for number, example in islice(coming, 2 * NUM_READERS - len(pending)):
                    pending.append(pool.submit(load, example, number < NUM_RAW))
                if not pending:
                    return
                try:
                    found = pending.popleft().result()
                except PictureGoneError as error:
                    loaded.gone.append(error)
                else:
                    yield found
        finally:
            for future in pending:
                future.cancel()
