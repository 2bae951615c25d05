"""Pictures for timing, and the time of each step between a file and its stored feature."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from extract.decoding.decode import decode_within_budget
from extract.decoding.memory import PixelMemory
from extract.decoding.read import read_picture
from extract.engines import count_cores
from extract.pixels import FACTOR, OFFSET, resize_pixels
from features.options import Compression
from features.schema import Features
from features.shards.chunks import encode_rows

LARGE_SIZE = (4000, 3000)
NUM_LARGE, NUM_COPIES = 24, 6
STEPS = ("read", "hash", "decode", "resize", "scale", "compress")


def multiply_pictures(sources: Sequence[Path], num_pictures: int, folder: Path) -> None:
    """Write distinct files by copying pictures; bytes appended to a picture change its content hash."""
    for number, copy in zip(range(num_pictures), (n // len(sources) for n in count()), strict=False):
        source = sources[number % len(sources)]
        path = folder / source.parent.name / f"{copy:03}-{number:06}{source.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes() + bytes(copy))


def make_large_pictures(sources: Sequence[Path], folder: Path) -> None:
    """Enlarge pictures to JPEGs of 12 megapixels, with noise like that of a camera."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 4, (LARGE_SIZE[1], LARGE_SIZE[0], 1))
    for number, source in enumerate(sources[:NUM_LARGE]):
        image = Image.open(source).convert("RGB").resize(LARGE_SIZE, Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(image) + np.roll(noise, number * 997), 0, 255).astype(np.uint8)
        path = folder / ("odd" if number % 2 else "even") / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)
        for copy in range(1, NUM_COPIES):
            path.with_stem(f"{path.stem}-{copy}").write_bytes(path.read_bytes() + bytes(copy))


def time_decoding(paths: Sequence[Path]) -> float:
    """Decode pictures in one thread for each core; return pictures per second."""
    memory = PixelMemory()

    def decode(path: Path) -> None:
        with decode_within_budget(path.read_bytes(), memory=memory):
            pass

    started = time.monotonic()
    with ThreadPoolExecutor(count_cores(0)) as pool:
        list(pool.map(decode, paths))
    return len(paths) / (time.monotonic() - started)


def time_steps(paths: Sequence[Path], features: Features, image_size: int) -> Mapping[str, float]:
    """Do each step for pictures in one thread; return milliseconds of a core for one picture.

    Args:
        paths: the pictures.
        features: features to compress.
        image_size: size to which pictures are resized.
    """
    seconds = dict.fromkeys(STEPS, 0.0)

    @contextmanager
    def clock(step: str) -> Iterator[None]:
        started = time.thread_time()
        yield
        seconds[step] += time.thread_time() - started

    memory = PixelMemory()
    for path in paths:
        with clock("read"):
            data = read_picture(path)
        with clock("hash"):
            hashlib.sha256(data).digest()
        with ExitStack() as held:
            with clock("decode"):
                pixels = held.enter_context(decode_within_budget(data, memory=memory))
            with clock("resize"):
                resized = resize_pixels(pixels, image_size)
        with clock("scale"):
            resized *= np.float32(FACTOR)
            resized += np.float32(OFFSET)
    with clock("compress"):
        encode_rows(features, Compression.GZIP)
    return {step: 1000 * seconds[step] / len(features if step == "compress" else paths) for step in STEPS}
