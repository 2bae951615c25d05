"""Stores of every schema version there was can be read, and mean what they meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from features.maintenance.check import find_problems
from features.store import FeatureStore
from tests.features.stores import fill_store, make_features, make_fingerprint, make_image

GOLDEN = Path(__file__).parent


@pytest.fixture(params=["store", "packed.h5"])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    source, copy = GOLDEN / "v1" / request.param, tmp_path / request.param
    return Path(shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy))


def test_golden_store_has_the_examples_and_features_it_was_made_with(golden: Path) -> None:
    store = FeatureStore(golden)
    assert store.fingerprint == make_fingerprint()
    assert store.images_folder == "/pictures"
    by_path = {example.path: example for example in store.examples}
    assert by_path.keys() == {*(make_image(number).path for number in range(1, 10)), "dogs/ç-\udcff.jpg"}
    assert (by_path["dogs/ç-\udcff.jpg"].label, by_path["dogs/ç-\udcff.jpg"].split) == ("dogs", "validation")
    for path, example in by_path.items():
        number = 3 if "ç" in path else int(Path(path).stem)
        np.testing.assert_array_equal(store.read([example])[0], make_features(range(number, number + 1))[0])


def test_golden_store_passes_the_check(tmp_path: Path) -> None:
    store = Path(shutil.copytree(GOLDEN / "v1" / "store", tmp_path / "store"))
    assert find_problems(store, read_data=True, images=None, advance=lambda _: None) == []


def test_golden_store_is_gone_on_with(tmp_path: Path) -> None:
    store = Path(shutil.copytree(GOLDEN / "v1" / "store", tmp_path / "store"))
    fill_store(store, range(10, 14))
    opened = FeatureStore(store)
    assert len(opened.examples) == 14
    assert [shard.number for shard in opened.shards] == [1, 2, 3, 4]


def test_golden_shards_are_what_would_be_written_today(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", range(10))
    then = sorted(path.name for path in (GOLDEN / "v1" / "store" / "shards").iterdir())
    assert sorted(path.name for path in (tmp_path / "store" / "shards").iterdir()) == then
