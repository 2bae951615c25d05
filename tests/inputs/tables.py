"""Tables of labels for pictures that need not exist."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from extract.images.walk import PictureFile
from extract.labels.scan import label_pictures
from extract.labels.summary import TableLabels
from extract.labels.table import read_table
from features.catalog.tables import ImageRow


def write_table(path: Path, rows: Iterable[Iterable[object]], delimiter: str = ",") -> Path:
    """Write rows as text; values are not quoted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in rows))
    return path


def label(
    table: Path, paths: Iterable[str], columns: str = "", folder: Path | None = None
) -> tuple[dict[str, str], TableLabels]:
    """Label pictures with the given paths; return their labels by path, and the use of the table."""
    images, found = label_rows(table, paths, columns, folder)
    return {image.path: image.label for image in images}, found


def label_rows(
    table: Path, paths: Iterable[str], columns: str = "", folder: Path | None = None
) -> tuple[list[ImageRow], TableLabels]:
    """Label pictures with the given paths, by default in the folder `pictures` beside the table."""
    pictures = [PictureFile(path, 1, 1) for path in paths]
    return label_pictures(folder or table.parent / "pictures", pictures, read_table(table), columns)
