"""Trainings with fine-tuning: cuts, repeats, interruptions and errors."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from features.options import Pool
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.finetuning.conftest import configure
from tests.train_head.finetuning.layers import SMALL_BLOCK, list_weights
from tests.train_head.multi_label import write_labels
from tests.train_head.synthetic import make_store
from tests.train_head.training import make_config
from train_head.config import NO_FINE_TUNING, SolverName
from train_head.data.split import split_examples
from train_head.export.__main__ import export
from train_head.export.config import ExportConfig
from train_head.finetuning.tail import Tail
from train_head.runs.read import Run
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, TunedWeights
from train_head.solvers.history import Epoch, PartlyDivergedError
from train_head.solvers.reduced import fit_reduced
from train_head.train import train_head
from train_head.trials import evaluate_fit

if TYPE_CHECKING:
    import keras


@pytest.mark.parametrize("solver", [SolverName.REDUCED, SolverName.FULL])
def test_train_from_earlier_cut_fine_tunes_the_same_layers(
    stores: Path, tmp_path: Path, quiet: Console, solver: SolverName
) -> None:
    config = configure(stores, tmp_path / "run", cut="mixed5", solver=solver)
    metrics = train_head(config, quiet)
    weights = Run(config.run).read_head()
    assert isinstance(weights, TunedWeights)
    assert weights.tail.keys() == SMALL_BLOCK
    assert weights.input_kernel.shape == (3 * 3 * 8, 8)
    assert metrics["cut"] == "mixed5"
    assert metrics["before_tuning"]["epoch"] == 4
    if solver is SolverName.REDUCED:
        result = export(ExportConfig(config.run, tmp_path / "out"), quiet)
        assert result["accuracy"] == metrics["val_accuracy"]


def test_train_fine_tunes_a_head_of_several_labels(stores: Path, tmp_path: Path, quiet: Console) -> None:
    path = shutil.copytree(stores / "mixed6", tmp_path / "store")
    texts = ["|".join(["first"] * (n % 3 == 0) + ["second"] * (n % 2)) for n in range(len(FeatureStore(path).examples))]
    write_labels(FeatureStore(path), texts)
    config = configure(path, tmp_path / "run", epochs=2, fine_tune_epochs=2)
    metrics = train_head(config, quiet)
    assert Run(config.run).read_head().output_kernel.shape == (8, 2)
    result = export(ExportConfig(config.run, tmp_path / "out"), quiet)
    assert result["accuracy"] == metrics["val_accuracy"]


def test_train_without_cut_chooses_last_stored_cut_at_or_before_the_layer(tuned: Path, stores: Path) -> None:
    run = Run(tuned)
    assert run.open_store().path == stores / "mixed6"
    assert run.record.config["cut"] == "mixed6"
    assert run.unfreeze_from == "mixed6"


def test_train_again_changes_nothing_and_other_layers_give_another_run(
    stores: Path, tuned: Path, quiet: Console
) -> None:
    config = configure(stores, tuned)
    assert train_head(config, quiet) == Run(tuned).read_metrics()
    train_head(configure(stores, tuned, unfreeze_from=NO_FINE_TUNING, cut="mixed6"), quiet)
    assert Run(tuned).unfreeze_from == NO_FINE_TUNING
    kept = [path for path in tuned.parent.iterdir() if path.name.startswith(f"{tuned.name}-")]
    assert [Run(path).unfreeze_from for path in kept] == ["mixed6"]


def test_train_with_repeats_starts_each_from_the_same_backbone(
    stores: Path, tuned: Path, tmp_path: Path, quiet: Console
) -> None:
    with mock.patch("train_head.trials.evaluate_fit", side_effect=evaluate_fit) as evaluated:
        both = train_head(configure(stores, tmp_path / "both", repeats=2), quiet)
    second: Fit = evaluated.call_args.args[0]
    alone = train_head(configure(stores, tmp_path / "alone", seed=4), quiet)
    first = Run(tuned)
    assert both["repeats"]["val_accuracies"] == [first.read_metrics()["val_accuracy"], alone["val_accuracy"]]
    # All pictures are classified correctly, whatever the second fit starts from; its losses differ.
    assert [row.val_loss for row in second.history] == [row.val_loss for row in Run(tmp_path / "alone").read_history()]
    mine, theirs = (run.read_head().to_arrays()["tail_conv2d_6"] for run in (Run(tmp_path / "both"), first))
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.usefixtures("eager")
def test_train_interrupted_during_fine_tuning_resumes_and_gives_same_weights(
    stores: Path, tuned: Path, tmp_path: Path, quiet: Console
) -> None:
    def stop(row: Epoch) -> None:
        if row.epoch == 6:
            raise KeyboardInterrupt

    config = configure(stores, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_head(config, quiet, on_epoch_end=stop)
    assert not config.run.exists()
    followed: list[Epoch] = []
    train_head(config, quiet, on_epoch_end=followed.append)
    whole, again = Run(tuned).read_head().to_arrays(), Run(config.run).read_head().to_arrays()
    assert whole.keys() == again.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], again[name], err_msg=name)
    assert [row.val_loss for row in followed] == [row.val_loss for row in Run(tuned).read_history()]


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"unfreeze_from": "mixed5", "cut": "mixed6"}, "--unfreeze-from", "mixed5"),
        ({"unfreeze_from": "mixed7", "cut": "mixed6"}, "--unfreeze-from", "mixed7"),
        ({"unfreeze_from": "mixed4"}, "--cut", "none"),
    ],
)
def test_train_with_impossible_layer_fails_before_any_work(
    stores: Path, tmp_path: Path, quiet: Console, options: dict[str, Any], where: str, got: str
) -> None:
    with raises(UsageError, where=where, got=got):
        train_head(configure(stores, tmp_path / "run", **options), quiet)
    assert list(tmp_path.iterdir()) == []


def copy_features(
    store: FeatureStore, folder: Path, features: NDArray[Any], *, pool: Pool = Pool.NONE, weights_file: str = ""
) -> None:
    """Write a store of the same pictures and backbone, with other features or another record of the weights."""
    paths, contents = [e.path for e in store.examples], [e.content_hash for e in store.examples]
    fingerprint = replace(store.fingerprint, pool=pool.value)
    make_store(
        folder,
        paths,
        features=features,
        contents=contents,
        fingerprint=fingerprint,
        weights_name="file" if weights_file else "random",
        weights_file=weights_file,
    )


def test_train_with_fine_tuning_on_stored_means_fails(stores: Path, tmp_path: Path, quiet: Console) -> None:
    store = FeatureStore(stores / "mixed6")
    copy_features(store, tmp_path / "store", store.read(store.examples).mean(axis=(1, 2)), pool=Pool.AVG)
    with raises(UsageError, where="--unfreeze-from"):
        train_head(configure(tmp_path / "store", tmp_path / "run"), quiet)


def test_train_without_fine_tuning_writes_plain_head(stores: Path, tmp_path: Path, quiet: Console) -> None:
    config = make_config(stores, tmp_path / "run", cut="mixed6")
    assert train_head(config, quiet)["before_tuning"] is None
    assert type(Run(config.run).read_head()) is HeadWeights


def test_train_that_diverges_during_fine_tuning_keeps_the_head(
    stores: Path, tail: Tail, tmp_path: Path, quiet: Console, loaded: keras.Model
) -> None:
    # The L2 term overflows with the first step.
    config = configure(stores, tmp_path / "run", fine_tune_learning_rate=1e30, l2=0.01)
    with raises(PartlyDivergedError, where=f"{config.run}, repeat 0, epoch 5") as caught:
        train_head(config, quiet)
    assert "1e+30" in caught.value.got
    assert "fine-tuning" in caught.value.advice
    problem = Problem(tail.open_head_inputs(), split_examples(tail.store.examples, 0.2), config)
    head = fit_reduced(problem, Checkpoint(None), quiet)
    metrics = Run(config.run).read_metrics()
    assert metrics["kept_epoch"] == 4
    assert metrics["before_tuning"] | {"seconds": 0} == asdict(head.history[-1]) | {"seconds": 0}
    kernels = Run(config.run).read_head().to_arrays()
    for name in SMALL_BLOCK:
        np.testing.assert_array_equal(kernels[f"tail_{name}"], list_weights(loaded)[name][0])


def test_train_with_moved_weights_file_needs_its_new_path(
    stores: Path, tmp_path: Path, quiet: Console, small: keras.Model
) -> None:
    store, file = FeatureStore(stores / "mixed6"), tmp_path / "some.weights.h5"
    features = store.read(store.examples)
    copy_features(store, tmp_path / "store", features, weights_file=str(file))
    moved = tmp_path / "moved.weights.h5"
    small.save_weights(moved)
    config = configure(tmp_path / "store", tmp_path / "run", fine_tune_epochs=1)
    with raises(HeadstartError, where=file):
        train_head(config, quiet)
    assert train_head(replace(config, weights=str(moved)), quiet)["before_tuning"]["epoch"] == 4
