"""Training with `--split group` on pictures with saved-again copies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import UsageError
from base.terminal import Console
from extract.config import ExtractConfig
from extract.run import extract_features
from features.options import Pool
from tests.commands import run_command
from tests.errors import raises
from tests.train_head.training import make_config
from train_head.config import SplitName
from train_head.prepare import prepare_training
from train_head.runs.read import Run

NUM_PICTURES, COPIED = 30, range(0, 30, 2)


def draw_scene(label: str, number: int) -> Image.Image:
    """Draw random patches of colour; cats are red."""
    colours = np.random.default_rng([number, len(label)]).integers(0, 256, (6, 6, 3))
    colours[..., 0] //= 1 if label == "cats" else 2
    return Image.fromarray(colours.astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Store of 30 cats and 30 foxes; every second picture is there again, saved with another quality."""
    folder = tmp_path_factory.mktemp("copied")
    for label in ("cats", "foxes"):
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(NUM_PICTURES):
            scene, path = draw_scene(label, number), folder / "pictures" / label / f"{number:03}.jpg"
            scene.save(path, quality=95)
            if number in COPIED:
                scene.save(path.with_name(f"{number:03}-again.jpg"), quality=70)
    config = ExtractConfig(
        folder / "pictures", folder / "store", weights="random", image_size=75, cut="mixed0", pool=Pool.AVG
    )
    extract_features(config, quiet)
    return folder / "store"


def list_divided(run: Run) -> list[str]:
    """List the pictures whose copy is on the other side of the split."""
    split_of = {example.path: example.split for example in run.read_examples()}
    return [path for path in split_of if split_of[path] != split_of.get(path.replace("-again", ""), split_of[path])]


def train(store: Path, run: Path, split: str) -> Mapping[str, object]:
    options = (
        "--store",
        store,
        "--run",
        run,
        "--split",
        split,
        "--epochs",
        2,
        "--solver",
        "reduced",
        "--units",
        8,
        "--no-report",
    )
    done = run_command("train_head.__main__", *map(str, options), "--json")
    assert done.status == 0
    return done.json


def test_train_with_groups_keeps_copies_together_and_finds_the_same_split_again(copied: Path, tmp_path: Path) -> None:
    found = train(copied, tmp_path / "group", "group")
    run = Run(tmp_path / "group")
    assert list_divided(run) == []
    assert found["num_validation"] == pytest.approx(0.2 * 2 * (NUM_PICTURES + len(COPIED)), abs=8)
    assert run.record.config["split"] == "group"
    # The same command has nothing to do; the default split is another run, with copies on both sides.
    before = (run.folder / "run.json").read_bytes()
    train(copied, tmp_path / "group", "group")
    assert (run.folder / "run.json").read_bytes() == before
    train(copied, tmp_path / "content", "content")
    assert len(list_divided(Run(tmp_path / "content"))) > 3


def test_train_warns_of_copies_on_both_sides_unless_groups_stay_together(copied: Path, tmp_path: Path) -> None:
    for split, expected in (("content", 1), ("group", 0)):
        options = ("--store", copied, "--run", tmp_path / split, "--split", split, "--epochs", 1, "--units", 8)
        done = run_command("train_head.__main__", *map(str, options))
        assert done.err.count("--split group") == expected


def test_folds_of_a_training_with_groups_keep_copies_together(copied: Path, tmp_path: Path) -> None:
    training = prepare_training(make_config(copied, tmp_path / "run", split=SplitName.GROUP, folds=3))
    for trial in training.trials[1:]:
        held_out = {example.path.replace("-again", "") for example in trial.split.validation}
        assert not held_out & {example.path.replace("-again", "") for example in trial.split.train}


def test_prepare_training_with_groups_and_a_validation_folder_is_refused(two_classes: Path, tmp_path: Path) -> None:
    with raises(UsageError, where="--split"):
        prepare_training(make_config(two_classes, tmp_path / "run", split=SplitName.GROUP))
