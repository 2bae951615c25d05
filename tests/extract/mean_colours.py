"""Backbone without TensorFlow, for tests of the extraction loop: the features of a picture are its mean colours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from base.terminal import Console
from extract.config import ExtractConfig
from extract.decoding.convert import Pixels
from extract.engines import Streams
from extract.loop import ExtractionLoop
from extract.views import Prepared
from features.catalog.tables import ImageRow
from features.schema import round_features
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.features.stores import make_fingerprint, make_origin
from tests.pictures import encode

SHAPE = (1, 1, 3)


class MeanColours:
    """Backbone that returns mean colours, plus 1,000 times the number of the view; a second output is the negative.

    It records the size of each batch and the threads that ran it.
    """

    def __init__(
        self, before: Callable[[int], None] = lambda _: None, num_streams: int = 1, num_outputs: int = 1
    ) -> None:
        self.streams = Streams(num_cores=2, num_streams=num_streams, num_threads=1)
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self._before, self._num_outputs = before, num_outputs
        self._lock = threading.Lock()

    def prepare(self, pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        assert len(content_hash) == 32
        mean = pixels.mean(axis=(0, 1), dtype=np.float32).reshape(SHAPE)
        return {view: mean + np.float32(1000 * view) for view in views}

    round = staticmethod(round_features)

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with self._lock:
            self.threads.add(threading.current_thread().name)
            number = len(self.batches)
            self.batches.append(len(batch))
        self._before(number)
        features = batch
        return [features, -features][: self._num_outputs]


def write_pictures(folder: Path, colours: Sequence[int]) -> list[ImageRow]:
    """Write a gray picture for each value, and return the rows of the catalog in this order."""
    folder.mkdir()
    rows = []
    for number, colour in enumerate(colours):
        data = encode(Image.new("RGB", (4, 5), (colour,) * 3))
        (folder / f"{number:03}.png").write_bytes(data)
        rows.append(ImageRow(f"{number:03}.png", "cats", "", len(data), 1))
    return rows


def run_loop(
    tmp_path: Path, rows: Sequence[ImageRow], backbone: MeanColours, max_bad: int = 0, **options: Any
) -> ExtractionLoop:
    """Extract `tmp_path / "pictures"` into `tmp_path / "store"`: 4 pictures a batch, 6 rows a shard."""
    config = ExtractConfig(tmp_path / "pictures", tmp_path / "store", batch_size=4, **options)
    with FeatureWriter(config.store, make_fingerprint(), make_origin(SHAPE), rows_per_shard=6) as writer:
        writer.update_images(rows, [])
        writer.write_meta("images_folder", "")
        loop = ExtractionLoop(config, Console(), [writer], backbone)
        loop.run(rows, max_bad)
    return loop


def read_colours(store: FeatureStore) -> list[float]:
    """Read the first value of each example's feature."""
    values: list[float] = store.read(store.examples)[:, 0, 0, 0].tolist()
    return values
