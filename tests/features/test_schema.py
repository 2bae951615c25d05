"""Fingerprint, origin, shard size and rounding."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from features.schema import FeatureStatus, Origin, encode_json, round_features
from tests.features.stores import make_fingerprint, make_origin

pytestmark = pytest.mark.unit


def test_fingerprint_digest_is_fixed_for_schema_version_1() -> None:
    # A changed digest makes all existing stores unusable, so it requires a new schema version.
    assert make_fingerprint().digest == "63fbc6b594c9d905e8899b5aef0fe01d92cabd0a8e1125f0454b3ab3332da630"


@pytest.mark.parametrize("change", [{"cut": "mixed6"}, {"image_size": 150}, {"weights_sha256": "cd" * 32}])
def test_fingerprint_changed_field_changes_the_digest_and_is_listed(
    change: dict[str, object],
) -> None:
    one, other = make_fingerprint(), make_fingerprint(**change)
    (name, value) = next(iter(change.items()))
    assert one.digest != other.digest
    assert one.list_differences(other) == [(name, getattr(one, name), value)]


def test_fingerprint_pool_none_does_not_change_the_digest() -> None:
    # Stores of older versions do not have the field.
    assert make_fingerprint(pool="none").digest == make_fingerprint().digest
    assert "pool" not in make_fingerprint().encode()


def test_fingerprint_pool_avg_changes_the_digest_and_is_listed() -> None:
    pooled = make_fingerprint(pool="avg")
    assert pooled.digest == "785e966c88ca2c33a324a7099ae280ec129dc8f3c0ce06ed43741d6054459623"
    assert make_fingerprint().list_differences(pooled) == [("pool", "none", "avg")]


def test_origin_from_json_is_equal() -> None:
    assert Origin.from_json(encode_json(asdict(make_origin()))) == make_origin()


def test_round_features_status_is_determined_for_each_row() -> None:
    values = np.zeros((5, 2), np.float32)
    values[1, 0] = np.nan
    values[2, 1] = -np.inf
    values[3, 0] = 65_520
    values[4] = 65_504, 1 / 3
    rounded, statuses = round_features(values)
    assert statuses == [
        FeatureStatus.OK,
        FeatureStatus.NONFINITE,
        FeatureStatus.NONFINITE,
        FeatureStatus.OVERFLOW,
        FeatureStatus.OK,
    ]
    assert rounded.dtype == np.float16
    assert rounded[4].tolist() == [65_504.0, float(np.float16(1 / 3))]


@pytest.mark.parametrize(
    ("value", "status", "stored"),
    [
        (0.0, FeatureStatus.OK, 0.0),
        (-0.0, FeatureStatus.OK, -0.0),
        (65_519.0, FeatureStatus.OK, 65_504.0),
        (-65_519.0, FeatureStatus.OK, -65_504.0),
        (65_520.0, FeatureStatus.OVERFLOW, np.inf),
        (-65_520.0, FeatureStatus.OVERFLOW, -np.inf),
        (3e38, FeatureStatus.OVERFLOW, np.inf),
        (-3e38, FeatureStatus.OVERFLOW, -np.inf),
        (1e-30, FeatureStatus.OK, 0.0),
        (-6e-8, FeatureStatus.OK, -(2**-24)),
        (np.inf, FeatureStatus.NONFINITE, np.inf),
        (-np.inf, FeatureStatus.NONFINITE, -np.inf),
        (np.nan, FeatureStatus.NONFINITE, np.nan),
        (-np.nan, FeatureStatus.NONFINITE, np.nan),
    ],
)
@pytest.mark.parametrize("shape", [(2, 2, 3), (5,), ()])
def test_round_features_one_value_determines_the_status_of_a_row(
    shape: tuple[int, ...], value: float, status: FeatureStatus, stored: float
) -> None:
    values = np.ones((3, *shape), np.float32)
    values[1].flat[-1] = value
    if not shape:
        values[1] = value

    rounded, statuses = round_features(values)

    assert statuses == [FeatureStatus.OK, status, FeatureStatus.OK]
    assert rounded.shape == values.shape
    np.testing.assert_array_equal(rounded[1].flat[-1], np.float16(stored))
    assert np.signbit(rounded[1].flat[-1]) == np.signbit(stored) or np.isnan(stored)


def test_round_features_row_with_overflow_and_nan_is_nonfinite() -> None:
    values = np.array([[1e6, np.nan], [1e6, -np.inf], [-1e6, 1e6]], np.float32)
    nonfinite, overflow = FeatureStatus.NONFINITE, FeatureStatus.OVERFLOW
    assert round_features(values)[1] == [nonfinite, nonfinite, overflow]


@pytest.mark.parametrize("shape", [(0, 2, 3), (0, 5), (2, 0)])
def test_round_features_empty_array_returns_an_empty_array(shape: tuple[int, ...]) -> None:
    rounded, statuses = round_features(np.empty(shape, np.float32))
    assert (rounded.shape, rounded.dtype) == (shape, np.dtype(np.float16))
    assert statuses == [FeatureStatus.OK] * shape[0]


def test_round_features_does_not_depend_on_the_memory_layout() -> None:
    values = np.random.default_rng(5).normal(0, 2e4, (6, 4, 4, 3)).astype(np.float32)
    values[[1, 4], 2, 3, 1] = 1e5, np.nan
    expected, statuses = round_features(values)
    assert [statuses[row] for row in (1, 4)] == [FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE]
    for same in (np.asfortranarray(values), values.transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2)):
        rounded, found = round_features(same)
        np.testing.assert_array_equal(rounded, expected)
        assert found == statuses
    rounded, found = round_features(values[::-2])
    np.testing.assert_array_equal(rounded, expected[::-2])
    assert found == statuses[::-2]
