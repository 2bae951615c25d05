"""Sweeps over the first fine-tuned layer, on one extraction of several cuts."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import UsageError
from base.terminal import Console
from extract.config import ExtractConfig
from extract.run import extract_features
from tests.train_head.sweeps import make_sweep, without_ridge
from train_head.runs.read import Run
from train_head.sweep.plan import check_candidates, plan_grid
from train_head.sweep.run import sweep_heads
from train_head.sweep.space import add_default_axes, parse_axes


@pytest.fixture(scope="module")
def three(shared_pictures: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Folder with the stores of mixed5, mixed6 and mixed7; not to be changed."""
    folder = tmp_path_factory.mktemp("boundaries") / "stores"
    cuts = "mixed5,mixed6,mixed7"
    extract_features(ExtractConfig(shared_pictures, folder, weights="random", image_size=75, cut=cuts), quiet)
    return folder


def test_sweep_over_layers_reads_the_cut_that_each_head_needs(three: Path, tmp_path: Path) -> None:
    config = make_sweep(three, tmp_path / "out")
    axes = add_default_axes(parse_axes(["unfreeze-from=none,mixed6,mixed5"], takes_ranges=False), config)
    assert [axis.name for axis in axes] == ["unfreeze_from"]
    heads = plan_grid(config, axes)
    assert [head.name for head in heads] == ["unfreeze-from-none", "unfreeze-from-mixed6", "unfreeze-from-mixed5"]
    measures = check_candidates(heads)
    assert [measure.store.fingerprint.cut for measure in measures] == ["mixed7", "mixed6", "mixed5"]


def test_sweep_over_layers_fits_each_and_keeps_the_best(three: Path, tmp_path: Path, quiet: Console) -> None:
    options = {"epochs": 3, "fine_tune_epochs": 1, "units": 4}
    config = make_sweep(three, tmp_path / "out", tries=["unfreeze-from=none,mixed6"], **options)
    with without_ridge():
        result = sweep_heads(config, quiet)
    assert sorted(trial["values"]["unfreeze_from"] for trial in result["trials"]) == ["mixed6", "none"]
    cuts = {Run(Path(trial["run"])).record.config["cut"] for trial in result["trials"]}
    assert cuts == {"mixed6", "mixed7"}
    best = Run(config.out / "best")
    assert best.unfreeze_from == result["best"]["values"]["unfreeze_from"]


def test_sweep_over_layer_before_all_stored_cuts_fails(three: Path, tmp_path: Path) -> None:
    config = make_sweep(three, tmp_path / "out")
    heads = plan_grid(config, parse_axes(["unfreeze-from=mixed4"], takes_ranges=False))
    with pytest.raises(UsageError) as caught:
        check_candidates(heads)
    assert "mixed4" in str(caught.value.where)
    assert "mixed5, mixed6, mixed7" in caught.value.expected
