"""Locations of features: the same as a dict, whatever the content hashes and views."""

from __future__ import annotations

import random

import pytest

from features.catalog.locations import Locations
from features.catalog.tables import Location
from features.schema import FeatureKey, FeatureStatus

pytestmark = pytest.mark.unit


def make_hash(rng: random.Random) -> bytes:
    """Return one of a few hashes, with zeros at both ends, which arrays of text would drop."""
    return bytes(rng.choice([0, 1, 255]) for _ in range(2)) + bytes(29) + bytes([rng.choice([0, 1])])


def make_locations(seed: int) -> dict[FeatureKey, Location]:
    rng, statuses = random.Random(seed), list(FeatureStatus)
    keys = {FeatureKey(make_hash(rng), rng.randrange(3)) for _ in range(30)}
    return {key: Location(rng.randrange(1, 4), row, rng.choice(statuses)) for row, key in enumerate(sorted(keys))}


@pytest.mark.parametrize("seed", range(5))
def test_locations_equal_the_dict_that_they_were_collected_from(seed: int) -> None:
    expected, rng = make_locations(seed), random.Random(seed)
    found = Locations.collect(expected)
    assert list(found.items()) == sorted(expected.items())
    assert list(found) == sorted(expected)
    for key in [FeatureKey(make_hash(rng), view) for view in range(4) for _ in range(20)]:
        assert (found.get(key), key in found) == (expected.get(key), key in expected)
    assert found.list_unsound() == [key for key in sorted(expected) if expected[key].status is not FeatureStatus.OK]
    for shard in range(5):
        assert found.list_shard(shard) == [item for item in sorted(expected.items()) if item[1].shard == shard]


@pytest.mark.parametrize("seed", range(5))
def test_find_first_returns_view_0_in_the_given_order(seed: int) -> None:
    expected, rng = make_locations(seed), random.Random(-seed)
    keys, wanted = sorted(expected), [*(make_hash(rng) for _ in range(40)), b"", b"short"]
    places = Locations.collect(expected).find_first(wanted).tolist()
    assert [keys[place] if place >= 0 else None for place in places] == [
        FeatureKey(text, 0) if FeatureKey(text, 0) in expected else None for text in wanted
    ]


def test_locations_without_features_are_empty() -> None:
    found = Locations([])
    assert (len(found), list(found), found.get(FeatureKey(bytes(32), 0)), found.list_shard(1)) == (0, [], None, [])
    assert found.find_first([bytes(32)]).tolist() == [-1]
    assert found.find_outside({}) is None


@pytest.mark.parametrize("location", [(7, 0), (0, 0), (1, -1), (1, 2), (-3, 0)])
def test_find_outside_returns_a_feature_that_no_shard_has(location: tuple[int, int]) -> None:
    key = FeatureKey(bytes(32), 0)
    inside = Locations.collect({key: Location(1, 1, FeatureStatus.OK)})
    assert inside.find_outside({1: 2, 4: 9}) is None
    assert Locations.collect({key: Location(*location, FeatureStatus.OK)}).find_outside({1: 2, 4: 9}) == 0


def test_locations_reject_a_content_hash_of_another_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Locations.collect({FeatureKey(b"short", 0): Location(1, 0, FeatureStatus.OK)})
