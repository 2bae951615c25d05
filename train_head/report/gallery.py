"""Choice of the pictures to look at: errors, unsure predictions, and duplicates on both sides; and thumbnails."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from base.terminal import Console, make_printable
from extract.decode import UndecodableImageError, decode_image, read_picture
from features.pooled import pool_store
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.reduction.cache import Means, get, make_key, put
from train_head.runs.tables import Prediction

NUM_WORST = 24
NUM_UNSURE = 12
THUMBNAIL_SIDE = 200
NEAR = 0.75
"""Correlation of standardised channel means, above which two pictures are nearly the same.

Measured on 800 + 400 photographs of cats and dogs: others came to 0.72 at most; the same one saved at quality 50 to
0.90 at least, brighter by 30 % 0.85, cut by 5 % or halved 0.71, mirrored 0.65 (median 0.79).
"""
NUM_NEAR_SHOWN = 12
NUM_COMPARED = 500
MAX_PICTURES = 100_000
"""Of both sides; more are not read again for this."""
_BLOCK_NUMBERS = 2**24


class Thumbnail(NamedTuple):
    """A small picture within the page, or the reason why there is none."""

    address: str
    """`data:image/jpeg;base64,…`; empty where there is none."""
    problem: str = ""


def choose_worst(predictions: Sequence[Prediction], count: int = NUM_WORST) -> list[Prediction]:
    """Return the pictures classified incorrectly, those first whose true class has the lowest probability."""
    wrong = [found for found in predictions if found.predicted != found.label]
    return sorted(wrong, key=lambda found: (found.probabilities[found.label], found.path))[:count]


def choose_unsure(predictions: Sequence[Prediction], count: int = NUM_UNSURE) -> list[Prediction]:
    """Return the pictures whose two most probable classes are closest, correct ones too."""

    def measure_lead(found: Prediction) -> float:
        second, first = sorted(found.probabilities.values())[-2:]
        return first - second

    return sorted(predictions, key=lambda found: (measure_lead(found), found.path))[:count]


def draw_thumbnail(path: Path, content_hash: bytes) -> Thumbnail:
    """Draw a picture small, if its file still has the SHA-256 that its feature was made from."""
    try:
        # Under a locale without UTF-8 a name of other characters has no bytes: it is looked for by those that it has.
        data = read_picture(Path(os.fsdecode(str(path).encode("utf-8", "surrogateescape"))))
        if hashlib.sha256(data).digest() != content_hash:
            return Thumbnail("", "changed since it was extracted")
        picture = Image.fromarray(decode_image(data))
    except UndecodableImageError as error:
        return Thumbnail("", make_printable(str(error)))
    except ValueError:
        return Thumbnail("", "no file can have its name")
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")


class Pair(NamedTuple):
    """A held-out picture and one that was trained on."""

    held_out: Example
    train: Example
    similarity: float
    """1 for the same bytes; else a correlation, up to 1."""


def find_exact(train: Sequence[Example], held_out: Sequence[Example]) -> list[Pair]:
    """Return the held-out pictures whose very bytes were trained on, in the order of their paths."""
    trained: dict[bytes, Example] = {}
    for example in sorted(train, key=lambda example: example.path):
        trained.setdefault(example.content_hash, example)
    ordered = sorted(held_out, key=lambda example: example.path)
    return [Pair(e, trained[e.content_hash], 1.0) for e in ordered if e.content_hash in trained]


def find_nearest(split: Split, means: Means) -> list[Pair]:
    """Find for each different validation picture the training picture that is most like it, the most alike first.

    The same bytes are not compared, nor is a picture that is on both sides.
    """
    train, validation = _list_contents(split.train), _list_contents(split.validation)
    trained, held_out = (_standardise(side, means) for side in (means.train, means.validation))
    hashes = {example.content_hash for example in train}
    step = max(1, _BLOCK_NUMBERS // len(train))
    pairs = []
    for start in range(0, len(validation), step):
        similarities = held_out[start : start + step] @ trained.T
        for example, row in zip(validation[start : start + step], similarities, strict=True):
            if example.content_hash not in hashes:
                nearest = int(row.argmax())
                pairs.append(Pair(example, train[nearest], float(row[nearest])))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.held_out.path))


def measure_likeness(means: Means) -> float:
    """Return the median similarity of a training picture to the nearest other, of some hundreds evenly taken."""
    trained = _standardise(means.train, means)
    chosen = np.arange(0, len(trained), max(1, len(trained) // NUM_COMPARED))
    similarities = trained[chosen] @ trained.T
    similarities[np.arange(len(chosen)), chosen] = -1
    return float(np.median(similarities.max(axis=1)))


def load_means(store: FeatureStore, split: Split, console: Console) -> Means | None:
    """Read each picture's channel means, from the store's derived/ where an earlier report put them.

    Returns:
        Those of each side's different contents in the order of their hashes; None above `MAX_PICTURES`.
    """
    train, validation = _list_contents(split.train), _list_contents(split.validation)
    if len(train) + len(validation) > MAX_PICTURES:
        return None
    pooled = pool_store(store) if len(store.feature_shape) == 3 else store
    key = make_key(pooled, [train, validation], 0)
    if kept := get(store.derived_folder, key, Means, console):
        return kept
    values = pooled.read([*train, *validation]).astype(np.float32)
    means = Means(values[: len(train)], values[len(train) :])
    with suppress(OSError):
        put(store.derived_folder, key, means)
    return means


def _list_contents(examples: Sequence[Example]) -> list[Example]:
    first: dict[bytes, Example] = {}
    for example in sorted(examples, key=lambda example: example.path):
        first.setdefault(example.content_hash, example)
    return [first[content_hash] for content_hash in sorted(first)]


def _standardise(values: Array, means: Means) -> Array:
    """Return rows whose products are correlations, by the training pictures' center and spread."""
    moved: Array = (values - means.train.mean(axis=0)) / (means.train.std(axis=0) + np.float32(1e-6))
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.maximum(lengths, np.float32(1e-12)), np.float32)
