"""Locations of the features of a store, by content hash and view, in arrays."""

from __future__ import annotations

from array import array
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.catalog.tables import Location
from features.schema import FeatureKey, FeatureStatus

HASH_BYTES = 32
OK_CODE = list(FeatureStatus).index(FeatureStatus.OK)
"""Value of `OK` in `statuses`."""
_HASH_TYPE = np.dtype(f"S{HASH_BYTES}")
_STATUSES = tuple(FeatureStatus)
_CODES = {status: code for code, status in enumerate(_STATUSES)}

Columns = tuple[Sequence[bytes], Sequence[int], Sequence[int], Sequence[int], Iterable[FeatureStatus]]
"""Content hashes, views, shards, rows and statuses of some features."""


class Locations(Mapping[FeatureKey, Location]):
    """Locations of features, as a mapping that takes 57 bytes for a feature; a dict would take 300.

    The features are sorted by content hash and view. The arrays have one element for each.
    """

    def __init__(self, blocks: Iterable[Columns]) -> None:
        """Collect the columns of features that are sorted by content hash and view.

        Raises:
            ValueError: a content hash does not have 32 bytes.
        """
        stored, statuses = bytearray(), bytearray()
        views, shards, rows = array("q"), array("q"), array("q")
        for hashes, *numbers, found in blocks:
            if set(map(len, hashes)) != {HASH_BYTES}:
                raise ValueError("a content hash that does not have 32 bytes")
            stored += b"".join(hashes)
            for column, values in zip((views, shards, rows), numbers, strict=True):
                column.extend(values)
            statuses.extend(map(_CODES.__getitem__, found))
        self.views, self.shards, self.rows = (np.frombuffer(column, np.int64) for column in (views, shards, rows))
        self.statuses = np.frombuffer(statuses, np.uint8)
        self._bytes = bytes(stored)
        self._hashes = np.frombuffer(self._bytes, _HASH_TYPE)

    @classmethod
    def collect(cls, locations: Mapping[FeatureKey, Location]) -> Locations:
        """Copy the locations of a dict."""
        items = sorted(locations.items(), key=itemgetter(0))
        return cls([tuple(zip(*(key + location for key, location in items), strict=True))] if items else [])

    def find_first(self, hashes: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the position of view 0 of each picture in the arrays, -1 if it is not stored.

        Args:
            hashes: content hashes; -1 is returned for those that do not have 32 bytes.
        """
        places = np.full(len(hashes), -1)
        if not len(self):
            return places
        is_hash = np.fromiter(map(len, hashes), np.int64, len(hashes)) == HASH_BYTES
        wanted = np.frombuffer(b"".join(text for text in hashes if len(text) == HASH_BYTES), _HASH_TYPE)
        # In the order of the first bytes, searches share the processor's cache: a third of the time.
        order = np.argsort(wanted.view(">u8")[:: HASH_BYTES // 8].astype(np.uint64))
        found = np.empty(len(wanted), np.int64)
        found[order] = self._hashes.searchsorted(wanted[order])
        found[found == len(self)] = 0
        places[is_hash] = np.where((self._hashes[found] == wanted) & (self.views[found] == 0), found, -1)
        return places

    def list_shard(self, number: int) -> list[tuple[FeatureKey, Location]]:
        """List the features of a shard."""
        order, shards = self._by_shard
        places = order[shards.searchsorted(number) : shards.searchsorted(number, "right")].tolist()
        return [(self._read_key(place), self._read_location(place)) for place in places]

    @cached_property
    def _by_shard(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of the features in the order of their shards, and the shard of each."""
        order = np.argsort(self.shards, kind="stable")
        return order, self.shards[order]

    def find_outside(self, num_rows: Mapping[int, int]) -> int | None:
        """Return the position of a feature outside of its shard, given the number of rows of each; None if none is."""
        numbers = np.array([*sorted(num_rows), 0], np.int64)
        limits = np.array([*(num_rows[number] for number in numbers[:-1].tolist()), 0], np.int64)
        found = numbers[:-1].searchsorted(self.shards)
        is_inside = (numbers[found] == self.shards) & (self.rows >= 0) & (self.rows < limits[found])
        outside = np.flatnonzero(~is_inside)
        return int(outside[0]) if len(outside) else None

    def list_unsound(self) -> list[FeatureKey]:
        """List the features that are not usable for training."""
        return [self._read_key(place) for place in np.flatnonzero(self.statuses != OK_CODE).tolist()]

    def read_status(self, place: int) -> FeatureStatus:
        """Return the status of the feature at a position of the arrays."""
        return _STATUSES[int(self.statuses[place])]

    def __getitem__(self, key: FeatureKey) -> Location:
        """Return the location of a feature; raise KeyError if it is not stored."""
        if (place := self._find(key)) is None:
            raise KeyError(key)
        return self._read_location(place)

    def __contains__(self, key: object) -> bool:
        """Return whether a feature is stored."""
        return self._find(key) is not None

    def __iter__(self) -> Iterator[FeatureKey]:
        """Iterate over the keys, sorted by content hash and view."""
        return map(self._read_key, range(len(self)))

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.views)

    def items(self) -> ItemsView[FeatureKey, Location]:
        """Return the keys and locations, without a search for each."""
        return _Items(self)

    def _find(self, key: Any) -> int | None:
        content_hash, view = key
        if len(content_hash) == HASH_BYTES:
            (place,) = self._hashes.searchsorted(np.frombuffer(content_hash, _HASH_TYPE)).tolist()
            while place < len(self) and self._read_hash(place) == content_hash:
                if self.views[place] == view:
                    return int(place)
                place += 1
        return None

    def _read_key(self, place: int) -> FeatureKey:
        return FeatureKey(self._read_hash(place), int(self.views[place]))

    def _read_hash(self, place: int) -> bytes:
        # NumPy removes zero bytes from the end of an element of `_hashes`.
        return self._bytes[HASH_BYTES * place : HASH_BYTES * (place + 1)]

    def _read_location(self, place: int) -> Location:
        return Location(int(self.shards[place]), int(self.rows[place]), self.read_status(place))


class _Items(ItemsView[FeatureKey, Location]):
    _mapping: Locations

    def __iter__(self) -> Iterator[tuple[FeatureKey, Location]]:
        return zip(self._mapping, map(self._mapping._read_location, range(len(self._mapping))), strict=True)
