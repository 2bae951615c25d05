"""Pictures of a report: which ones to show, their thumbnails and links to their files."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from base.errors import HeadstartError
from base.terminal import make_printable
from base.urls import Location
from extract.decoding.decode import DEFAULT_POLICY, decode_image
from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError, read_picture
from train_head.runs.tables import Prediction

NUM_WRONG_SHOWN, NUM_WRONG_SHOWN_OF_MANY = 24, 12
"""Largest numbers of thumbnails of incorrect predictions. With many classes, the confused pairs have some too."""
NUM_OPEN = 12
"""Thumbnails of a section that are visible at once; the others open with a click."""
NUM_UNCERTAIN_SHOWN = 12
THUMBNAIL_SIDE, EXAMPLE_SIDE = 200, 96
"""Longest sides of the thumbnails in a gallery, and of those in the table of confused pairs, in pixels."""


class Thumbnail(NamedTuple):
    """A small picture within the page, or the reason why it is missing."""

    address: str
    """`data:image/jpeg;base64,…`; empty if it is missing."""
    link: str = ""
    """Address of the picture's file, relative to the report if it is local; empty if no browser can open it."""
    problem: str = ""


def sort_wrong(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the incorrect predictions, by ascending probability of the true class."""
    wrong = [found for found in predictions if found.predicted != found.label]
    return sorted(wrong, key=lambda found: (found.get_probability(found.label), found.path))


def choose_uncertain(predictions: Sequence[Prediction], count: int = NUM_UNCERTAIN_SHOWN) -> list[Prediction]:
    """Return the predictions whose two highest probabilities are closest, correct ones included."""

    def measure_margin(found: Prediction) -> float:
        second, first = np.partition(found.row, -2)[-2:]
        return float(first - second)

    return sorted(predictions, key=lambda found: (measure_margin(found), found.path))[:count]


def make_thumbnail(
    path: Location,
    content_hash: bytes | None,
    report_folder: Path,
    policy: DecodePolicy = DEFAULT_POLICY,
    side: int = THUMBNAIL_SIDE,
) -> Thumbnail:
    """Make the thumbnail of a picture, unless its file has changed since extraction.

    Args:
        path: the picture's file.
        content_hash: SHA-256 of its bytes at extraction; None if it is unknown.
        report_folder: folder of the report, which links are relative to.
        policy: rules by which the picture was decoded for extraction.
        side: longest side of the thumbnail in pixels.
    """
    try:
        data = encode_thumbnail(path, content_hash, policy, side)
    except UndecodableImageError as error:
        return Thumbnail("", problem=make_printable(str(error)))
    address = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return Thumbnail(address, _format_link(_locate(path), report_folder))


def encode_thumbnail(
    path: Location, content_hash: bytes | None, policy: DecodePolicy, side: int = THUMBNAIL_SIDE
) -> bytes:
    """Return the thumbnail of a picture as a JPEG file; the arguments are those of `make_thumbnail`.

    Raises:
        UndecodableImageError: the file is missing, cannot be decoded, or has changed since extraction.
    """
    try:
        data = read_picture(_locate(path))
    except ValueError as error:
        raise UndecodableImageError("invalid file name") from error
    except HeadstartError as error:
        # A report is useful without the pictures at a URL that refuses access.
        raise UndecodableImageError(f"{error.got} instead of {error.expected}") from error
    if content_hash is not None and hashlib.sha256(data).digest() != content_hash:
        raise UndecodableImageError("changed since extraction")
    picture = Image.fromarray(decode_image(data, policy=policy))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _format_link(path: Location, report_folder: Path) -> str:
    """Return the address of a file for a browser; empty for a file in an archive, or of a storage that needs keys."""
    if isinstance(path, Path):
        return quote(os.fsencode(os.path.relpath(path, report_folder)))
    return quote(str(path), safe=":/") if not path.archive and str(path).startswith("http") else ""


def _locate(path: Location) -> Location:
    """Return the path as the system has it: without UTF-8, Python represents non-ASCII characters by their bytes."""
    if not isinstance(path, Path):
        return path
    return Path(os.fsdecode(str(path).encode("utf-8", "surrogateescape")))
