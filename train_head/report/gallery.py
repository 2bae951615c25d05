"""Choice of the pictures to look at, and their thumbnails."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from base.terminal import make_printable
from extract.decode import UndecodableImageError, decode_image, read_picture
from train_head.runs.tables import Prediction

NUM_WORST = 24
NUM_UNSURE = 12
THUMBNAIL_SIDE = 200


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
    """Draw a picture small, if it is still the one that its feature was made from.

    Args:
        path: the picture.
        content_hash: SHA-256 of the file that it was.
    """
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
