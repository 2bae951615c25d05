"""Names of shards: the tar files that a pattern denotes, and the folders of their members."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from base.errors import UsageError
from base.remote import connect, repeat
from base.urls import has_pattern, is_url, redact

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SUFFIX = re.compile(r"\.(tar(\.(gz|bz2|xz))?|tgz|tbz2|txz)$", re.IGNORECASE)
_NUMBER = re.compile(r"(?<=[^\W_])[-_.](?=\d+$)")
"""Separator before the number at the end of a shard's name."""


def list_shards(pattern: str) -> list[str]:
    """List the archives that a pattern with braces or wildcards denotes, in the order of their names.

    Raises:
        UsageError: there is none.
    """
    places: list[str] = []
    for place in expand_braces(pattern) if is_url(pattern) else _list_local(Path(pattern)):
        if not is_url(place) or not has_pattern(place):
            places.append(place)
            continue
        system, path, where = connect(place)
        scheme = place.partition("://")[0]
        found = repeat(partial(system.glob, path), where)
        places += sorted(name if is_url(name) else f"{scheme}://{name}" for name in found)
    if not places:
        raise UsageError(redact(pattern), "tar files", "none", "Check the pattern")
    return places


def _list_local(pattern: Path) -> Iterator[str]:
    """Yield the local files that a pattern denotes; a name that exists is no pattern, as `photos[1].tar`."""
    folder = _find_existing(pattern)
    for rest in expand_braces(pattern.relative_to(folder).as_posix()):
        place = folder / rest
        inside = _find_existing(place)
        name = place.relative_to(inside).as_posix()
        yield from sorted(map(Path.as_posix, inside.glob(name))) if has_pattern(name) else [place.as_posix()]


def _find_existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.access(place, os.F_OK))


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the texts that a pattern with `{a,b}` and `{000..063}` denotes, in order."""
    parts = _BRACES.split(pattern)
    options = []
    for number, part in enumerate(parts):
        if number % 2 == 0:
            options.append([part])
        elif match := _RANGE.fullmatch(part):
            first, last = match.groups()
            options.append([f"{value:0{len(first)}d}" for value in range(int(first), int(last) + 1)])
        else:
            options.append(part.split(","))
    return map("".join, itertools.product(*options))


def name_shards(places: Sequence[str]) -> list[str]:
    """Return a folder for the members of each shard, such as `train/000007/` for `train-000007.tar`.

    The number is a folder of its own, so that the folders above it can be those of splits.
    """
    names = [redact(place) for place in places]
    folder = os.path.commonprefix([name.rpartition("/")[0] + "/" for name in names]).rpartition("/")[0]
    stems = [_SUFFIX.sub("", name[len(folder) :].strip("/")) for name in names]
    return [f"{_NUMBER.sub('/', stem)}/" for stem in stems]
