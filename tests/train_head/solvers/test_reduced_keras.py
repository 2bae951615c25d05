"""The reduced solver at full rank: equal to Keras on all inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.terminal import Console
from tests.train_head.fits import fit_plain_model, list_values
from tests.train_head.synthetic import draw_features, list_paths, make_store
from tests.train_head.training import SGD_CONFIG
from train_head.config import ClassWeight
from train_head.data.split import split_examples
from train_head.reduction.reduce import TrainValidation, reduce_features
from train_head.solvers import Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import count_outputs
from train_head.solvers.reduced import draw_head, fit_reduced

SHAPE = (4, 4, 3)
BASE = replace(SGD_CONFIG, epochs=10)


@pytest.mark.parametrize(
    ("counts", "class_weight", "changes"),
    [
        pytest.param({"cats": 15, "dogs": 8}, None, {"l2": 0.01}, id="two-l2"),
        pytest.param(
            {"cats": 12, "dogs": 9, "owls": 6},
            {0: 27 / (3 * 12), 1: 27 / (3 * 9), 2: 27 / (3 * 6)},
            {"momentum": 0.8, "learning_rate": 0.01, "class_weight": ClassWeight.BALANCED},
            id="three-momentum-balanced",
        ),
        pytest.param({"cats": 12, "dogs": 9, "owls": 6}, None, {"units": 0, "l2": 0.01}, id="three-linear"),
    ],
)
def test_fit_reduced_at_full_rank_equals_plain_keras(
    tmp_path: Path,
    quiet: Console,
    counts: dict[str, int],
    class_weight: dict[int, float] | None,
    changes: dict[str, Any],
) -> None:
    folders = {f"train/{label}": count for label, count in counts.items()}
    paths = list_paths(folders | {f"validation/{label}": 4 for label in counts})
    store = make_store(tmp_path / "store", paths, features=draw_features(paths, SHAPE))
    config, split = replace(BASE, **changes), split_examples(store.examples, 0.2)
    fitted = fit_reduced(Problem(store, split, config), Checkpoint(None), quiet)
    num_train, num_inputs = sum(counts.values()), int(np.prod(SHAPE))
    assert fitted.weights.input_kernel.shape == (num_train, config.units or count_outputs(len(counts)))

    start = draw_head(num_inputs, num_train, config.units, count_outputs(len(counts)), config.seed)
    reduced = reduce_features(store, TrainValidation(split.train, split.validation), None, quiet)
    kernel = reduced.make_expansion(store, start.input_kernel).expand_kernel(store, start.input_kernel)
    plain = fit_plain_model(store, config, class_weight, start.with_input_kernel(kernel).list_weights())
    np.testing.assert_allclose([row[1:] for row in list_values(fitted)], plain.rows, rtol=2e-5)
    outputs = plain.validation_outputs
    np.testing.assert_allclose(fitted.validation_probabilities[:, -outputs.shape[1] :], outputs, atol=1e-5)
    np.testing.assert_allclose(fitted.train_probabilities[:, -outputs.shape[1] :], plain.train_outputs, atol=1e-5)
    assert plain.rows[-1][0] < 0.95 * plain.rows[0][0]
