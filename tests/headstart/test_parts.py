"""A folder that is extracted in 16 parts, some of them killed and restarted, gives the head of one extraction."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from base.terminal import Console
from extract.parts import OtherPartError
from features.store import FeatureStore
from tests.commands import list_warnings
from tests.errors import raises
from tests.extract.extraction import assert_equal_stores, extract, interrupt_before_batch
from tests.features.merging.parts import merge
from tests.pictures import fill_folder
from tests.train_head.training import make_config
from train_head.config import SolverName
from train_head.runs.read import Run
from train_head.train import train_head

pytestmark = pytest.mark.usefixtures("small_backbone")

COUNT = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 120 pictures; must not be changed."""
    folder = tmp_path_factory.mktemp("parts") / "pictures"
    fill_folder(folder, {"train/cats": 45, "train/dogs": 45})
    fill_folder(folder, {"validation/cats": 15, "validation/dogs": 15}, start=100)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of one extraction of the folder; must not be changed."""
    store = tmp_path_factory.mktemp("parts") / "store"
    assert extract(folder, store, cut="mixed5").computed == 120
    return store


def hash_head(store: Path, run: Path, quiet: Console) -> str:
    """Fit a head with the reduced solver, and return the digest of its weights."""
    train_head(make_config(FeatureStore(store), run, solver=SolverName.REDUCED, epochs=2, units=8), quiet)
    arrays = sorted(Run(run).read_head().to_arrays().items())
    return hashlib.sha256(b"".join(name.encode() + array.tobytes() for name, array in arrays)).hexdigest()


def test_parts_that_were_killed_and_restarted_give_the_store_and_the_head_of_one_run(
    folder: Path, whole: Path, tmp_path: Path, quiet: Console
) -> None:
    numbers = random.Random(0).sample(range(1, COUNT + 1), COUNT)
    parts = [tmp_path / f"part-{number}" for number in numbers]
    for position, (number, part) in enumerate(zip(numbers, parts, strict=True)):
        if position in (2, 7, 11):
            with pytest.MonkeyPatch.context() as patch:
                interrupt_before_batch(2, patch, kill=True)
                with pytest.raises(KeyboardInterrupt):
                    extract(folder, part, cut="mixed5", part=f"{number}/{COUNT}", batch_size=1)
        assert extract(folder, part, cut="mixed5", part=f"{number}/{COUNT}").error == ""

    assert merge(*parts, "--into", tmp_path / "store").json["missing"] == []

    assert_equal_stores(tmp_path / "store", whole)
    assert FeatureStore(tmp_path / "store").images == FeatureStore(whole).images
    assert hash_head(tmp_path / "store", tmp_path / "run", quiet) == hash_head(whole, tmp_path / "expected", quiet)
    assert extract(folder, tmp_path / "store", cut="mixed5").computed == 0


def test_merged_store_grows_by_extraction_when_it_is_whole(
    folder: Path, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        extract(folder, tmp_path / f"{number}", cut="mixed5", part=f"{number}/2")
    store = tmp_path / "store"
    assert merge(tmp_path / "1", "--into", store, "--incomplete").json["missing"] == [2]
    with raises(OtherPartError, where=store):
        extract(folder, store, cut="mixed5")
    capsys.readouterr()
    hash_head(store, tmp_path / "run", quiet)
    assert len(list_warnings(capsys.readouterr().err)) == 1
    assert merge(tmp_path / "2", "--into", store).status == 0
    assert extract(folder, store, cut="mixed5", views=2).computed == 90
