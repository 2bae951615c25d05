"""Pictures of the tiny backbone's input size, which need no resizing, and stores of their features."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.backbone import hash_weights
from features.options import Pool
from features.store import FeatureStore
from tests.pictures import draw_picture
from tests.train_head.synthetic import FINGERPRINT, TINY_SIZE, make_store


class TinyPictures(NamedTuple):
    """Ten training and six validation pictures of cats and dogs."""

    folder: Path
    paths: list[str]
    """Paths below the folder, in the order of `pixels`."""
    pixels: NDArray[np.float32]
    """(16, 16, 16, 3) decoded RGB in [0, 255]."""


def draw_tiny_pictures(folder: Path) -> TinyPictures:
    for part, numbers in {"train": range(5), "validation": range(50, 53)}.items():
        for label in ("cats", "dogs"):
            (folder / part / label).mkdir(parents=True)
            for number in numbers:
                picture = draw_picture(label, number, (TINY_SIZE, TINY_SIZE))
                picture.save(folder / part / label / f"{number}.jpg", quality=95)
    files = sorted(folder.rglob("*.jpg"))
    pixels = np.stack([np.asarray(Image.open(file), np.float32) for file in files])
    return TinyPictures(folder, [file.relative_to(folder).as_posix() for file in files], pixels)


def store_tiny_pictures(
    store: Path, pictures: TinyPictures, backbone: Any, pool: Pool = Pool.NONE, features: NDArray[Any] | None = None
) -> FeatureStore:
    """Make a store of the outputs of a backbone, whose cut is the name of the folder, or of given features."""
    fingerprint = replace(
        FINGERPRINT, cut=store.name, image_size=TINY_SIZE, pool=pool.value, weights_sha256=hash_weights(backbone)
    )
    return make_store(
        store,
        pictures.paths,
        features=backbone.predict_on_batch(pictures.pixels / 127.5 - 1) if features is None else features,
        contents=[hashlib.sha256((pictures.folder / path).read_bytes()).digest() for path in pictures.paths],
        fingerprint=fingerprint,
        images_folder=str(pictures.folder),
    )
