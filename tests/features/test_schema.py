"""Fingerprints and rounding."""

from __future__ import annotations

import numpy as np
import pytest

from features.schema import (
    MAX_ROWS_PER_SHARD,
    FeatureStatus,
    Origin,
    count_rows_per_shard,
    encode_json,
    round_features,
)
from tests.features.stores import make_fingerprint, make_origin


def test_fingerprint_digest_is_fixed_for_schema_version_1() -> None:
    # A changed digest orphans every store there is: it needs a new schema version.
    assert make_fingerprint().digest == "63fbc6b594c9d905e8899b5aef0fe01d92cabd0a8e1125f0454b3ab3332da630"


@pytest.mark.parametrize("change", [{"cut": "mixed6"}, {"image_size": 150}, {"weights_sha256": "cd" * 32}])
def test_fingerprint_with_a_changed_field_has_another_digest_and_names_the_field(
    change: dict[str, object],
) -> None:
    one, other = make_fingerprint(), make_fingerprint(**change)
    (name, value) = next(iter(change.items()))
    assert one.digest != other.digest
    assert one.list_differences(other) == [(name, getattr(one, name), value)]


def test_origin_read_from_its_json_is_equal() -> None:
    from dataclasses import asdict

    assert Origin.from_json(encode_json(asdict(make_origin()))) == make_origin()


def test_rows_per_shard_of_mixed7_is_1024_and_of_large_features_fewer() -> None:
    assert count_rows_per_shard((7, 7, 768)) == MAX_ROWS_PER_SHARD
    assert count_rows_per_shard((17, 17, 768)) == 128 * 2**20 // (17 * 17 * 768 * 2)
    assert count_rows_per_shard((10**6, 10**3)) == 1


def test_round_features_marks_nan_infinity_and_overflow_row_by_row() -> None:
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
