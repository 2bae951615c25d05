"""Labels in shards: the files `cls`, `txt` or `json` beside each picture, as a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from base.errors import HeadstartError
from base.places.archives import JSON, SIDECAR_BYTES, split_key
from base.places.open import Place
from base.urls import UrlPath
from extract.images.walk import PictureFile
from extract.labels.table import LIST_SEPARATOR, Table

_PATH = "path"


def read_shard_labels(place: Place, path: UrlPath, pictures: Sequence[PictureFile]) -> Table | None:
    """Return the labels in shards as a table: a row for each picture, and a column for `cls`, `txt` or each JSON key.

    Args:
        place: the opened place of the pictures.
        path: path of the pictures in it.
        pictures: the pictures.

    Returns:
        The table; None if no picture has such a file.

    Raises:
        HeadstartError: a file is no text or no JSON object.
    """
    prefix = f"{path.inner}/" if path.inner else ""
    contents: dict[str, dict[str, bytes]] = {split_key(name)[0]: {} for name in place.sidecars}
    for name, data in place.sidecars.items():
        key, extension = split_key(name)
        contents[key][extension.lower()] = data
    samples = [contents.get(split_key(prefix + picture.path)[0], {}) for picture in pictures]
    kind = next((kind for kind in SIDECAR_BYTES if any(kind in sample for sample in samples)), None)
    if kind is None:
        return None
    digest = hashlib.sha256()
    rows = []
    for picture, sample in zip(pictures, samples, strict=True):
        data = sample.get(kind, b"")
        digest.update(f"{picture.path}\0".encode("utf-8", "surrogateescape") + data + b"\0")
        rows.append(_read_values(kind, data, path / picture.path))
    names = [kind] if kind != JSON else list(dict.fromkeys(name for row in rows for name in row))
    columns = [[picture.path for picture in pictures], *([row.get(name, "") for row in rows] for name in names)]
    return Table(Path(path.name), digest.hexdigest(), [_PATH, *names], columns, is_header_certain=True)


def is_label_file(path: str) -> bool:
    """Return whether a file in a shard is one with the label of a sample, by its extension."""
    return split_key(path)[1].lower() in SIDECAR_BYTES


def _read_values(kind: str, data: bytes, where: UrlPath) -> dict[str, str]:
    try:
        text = data.decode().strip()
        if kind != JSON:
            return {kind: text}
        values = json.loads(text) if text else {}
    except ValueError as error:
        raise HeadstartError(where, f"a {kind} file in UTF-8", str(error), "Write the shard again") from error
    if not isinstance(values, dict):
        raise HeadstartError(where, "a JSON object", type(values).__name__, "Write the shard again")
    found = {name: _format_value(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _format_value(value: object) -> str | None:
    """Return a scalar, or a list of texts, as a cell of a table; None for other values, which are no labels."""
    if isinstance(value, list) and all(isinstance(each, str | int) for each in value):
        return LIST_SEPARATOR.join(map(str, value))
    return str(value).strip() if isinstance(value, str | int | float) else None
