"""Which solver is chosen: by the problem's shape, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from base.errors import UsageError
from tests.train_head.synthetic import hash_text, list_paths, make_store
from train_head.config import SolverName, TrainConfig
from train_head.data.split import split_examples
from train_head.solvers import MAX_TRAINING_BYTES, Problem, ReducedShape, choose_solver, compute_reduced_shape


@pytest.mark.parametrize(
    ("sizes", "solver"),
    [
        pytest.param(ReducedShape(800, 512), SolverName.REDUCED, id="course"),
        pytest.param(ReducedShape(4000, 64), SolverName.REDUCED, id="few inputs"),
        pytest.param(ReducedShape(10, 10), SolverName.REDUCED, id="few pictures"),
        pytest.param(ReducedShape(MAX_TRAINING_BYTES // 2048, 512), SolverName.REDUCED, id="largest"),
        pytest.param(ReducedShape(MAX_TRAINING_BYTES // 2048 + 1, 512), SolverName.FULL, id="too large"),
    ],
)
def test_choose_solver_takes_the_reduced_one_unless_its_matrix_is_too_large(
    sizes: ReducedShape, solver: SolverName
) -> None:
    assert choose_solver(sizes)[0] is solver


def test_measure_sizes_counts_different_pictures_and_bounds_the_rank_by_them(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 6, "train/dogs": 5, "validation/cats": 2, "validation/dogs": 2})
    contents = [hash_text(path) for path in paths]
    contents[3] = contents[1]
    store = make_store(tmp_path / "store", paths, contents=contents)
    config = TrainConfig(store.path, tmp_path / "run", epochs=3, units=9, batch_size=4)
    problem = Problem(store, split_examples(store.examples, 0.2), config)
    assert compute_reduced_shape(problem) == ReducedShape(num_rows=10, rank=10)
    assert compute_reduced_shape(replace(problem, config=replace(config, rank=7))) == ReducedShape(10, 7)
    with pytest.raises(UsageError, match="--rank: expected at most 10,"):
        compute_reduced_shape(replace(problem, config=replace(config, rank=11)))
