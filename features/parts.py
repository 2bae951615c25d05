"""Parts of a folder of pictures: each picture is in exactly one part, by a hash of its relative path."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

PART_KEY = "part"
"""Key in `meta` of the parts of the folder that a store has, such as `3/16`; missing or empty if it has the folder."""
FOLDER_KEY = "part_folder"
"""Key in `meta` of the description of the whole folder at the time when the parts of the store were extracted. A store
into which all parts were merged has that of the last merge."""

_TEXT = re.compile(r"(0|[1-9][0-9]{0,5}(?:,[1-9][0-9]{0,5})*)/([1-9][0-9]{0,5})\Z")


@dataclass(frozen=True)
class Parts:
    """Some of the equal parts into which a folder is divided."""

    numbers: frozenset[int]
    """Numbers of the parts, from 1 to `count`."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Parts:
        """Decode the result of `str`, such as `3/16` or `1,2,5/16`; raise ValueError for any other text."""
        if match := _TEXT.match(text):
            found = cls(frozenset(map(int, match[1].split(","))) - {0}, int(match[2]))
            if str(found) == text and max(found.numbers, default=0) <= found.count:
                return found
        raise ValueError(f"the parts {text!r}")

    def __str__(self) -> str:
        """Return the numbers in ascending order and the count, such as `3/16` or `1,2,5/16`; `0/16` for none."""
        return f"{','.join(map(str, sorted(self.numbers))) or 0}/{self.count}"

    def holds(self, path: str) -> bool:
        """Return whether a picture is in one of the parts, by its path relative to the folder."""
        return find_part(path, self.count) in self.numbers

    def list_missing(self) -> list[int]:
        """List the numbers of the other parts, in ascending order."""
        return [number for number in range(1, self.count + 1) if number not in self.numbers]


def find_part(path: str, count: int) -> int:
    """Return the number of the part of a picture, from 1 to `count`.

    Each part is a range of the hashes, so that part 1 is read first in an extraction of the whole folder, then part 2.
    """
    return (int.from_bytes(hash_path(path)[:8]) * count >> 64) + 1


def hash_path(path: str) -> bytes:
    """Return the SHA-256 of a relative path, which may have surrogate escapes; it is known without reading the file."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
