"""Stores of every schema version are readable and unchanged in meaning."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from features.store import FeatureStore
from tests.features.stores import copy_store, fill_store, find_all_problems, make_features, make_fingerprint, make_image

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parent


@pytest.fixture(params=["store", "packed.h5"])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Copy of the golden store, as a folder and as a packed store."""
    source, copy = GOLDEN / "v1" / request.param, tmp_path / request.param
    return Path(shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy))


def test_golden_store_has_the_original_examples_and_features(golden: Path) -> None:
    store = FeatureStore(golden)
    assert store.fingerprint == make_fingerprint()
    assert store.images_folder == "/pictures"
    by_path = {example.path: example for example in store.examples}
    assert by_path.keys() == {*(make_image(number).path for number in range(1, 10)), "dogs/ç-\udcff.jpg"}
    assert (by_path["dogs/ç-\udcff.jpg"].label, by_path["dogs/ç-\udcff.jpg"].split) == ("dogs", "validation")
    for path, example in by_path.items():
        number = 3 if "ç" in path else int(Path(path).stem)
        np.testing.assert_array_equal(store.read([example]), make_features([number]))


def test_golden_store_passes_the_check(tmp_path: Path) -> None:
    store = Path(shutil.copytree(GOLDEN / "v1" / "store", tmp_path / "store"))
    assert find_all_problems(store) == []


def test_golden_store_can_be_extended(tmp_path: Path) -> None:
    store = Path(shutil.copytree(GOLDEN / "v1" / "store", tmp_path / "store"))
    fill_store(store, range(10, 14))
    opened = FeatureStore(store)
    assert len(opened.examples) == 14
    assert [shard.number for shard in opened.shards] == [1, 2, 3, 4]


def test_golden_shards_equal_newly_written_shards(tmp_path: Path) -> None:
    copy_store(tmp_path / "store", range(10))
    golden = sorted(path.name for path in (GOLDEN / "v1" / "store" / "shards").iterdir())
    assert sorted(path.name for path in (tmp_path / "store" / "shards").iterdir()) == golden
