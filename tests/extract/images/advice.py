"""Draw folder layouts, scan them as `extract` does, and follow the advice of a refusal."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from base.errors import HeadstartError
from extract.images.scan import Scan, check_scan, scan_images

_OPTION = re.compile(r"--(images|classes|min-pictures) ('[^']*'|\S*[^\s.,])")


def make_files(folder: Path, *paths: str) -> None:
    """Write a file for each path; the content of a file depends on its path within its class folder only."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"bytes of " + os.fsencode("/".join(path.split("/")[-2:])))


def make_classes(folder: Path, *tops: str, labels: Sequence[str] = ("cats", "dogs"), count: int = 3) -> None:
    """Write `count` files for each label below each of the folders `tops`."""
    make_files(
        folder, *(f"{top}/{label}/{n}.jpg".lstrip("/") for top in tops for label in labels for n in range(count))
    )


@dataclass(frozen=True)
class Options:
    """Options of `extract` that concern the layout."""

    images: Path
    classes: str = ""
    min_pictures: int = 0

    def scan(self) -> Scan:
        """Scan the folder and check the classes, as `extract` does before it computes anything."""
        scan = scan_images(self.images, [], self.classes, self.min_pictures)
        check_scan(self.images, scan)
        return scan

    def list_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of pictures by split and class."""
        return self.scan().count_by_class()


def follow_advice(error: HeadstartError, images: Path) -> list[Options]:
    """Return the options that the advice of a refusal names, one at a time."""
    followed = []
    for name, quoted in _OPTION.findall(error.advice):
        (value,) = shlex.split(quoted)
        match name:
            case "images":
                followed.append(Options(Path(value)))
            case "classes":
                followed.append(Options(images, classes=value))
            case _:
                followed.append(Options(images, min_pictures=int(value)))
    return followed
