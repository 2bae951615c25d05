"""Shape of the reduced training matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from base.errors import UsageError
from tests.errors import raises
from tests.train_head.synthetic import hash_text, list_paths, make_store
from train_head.config import TrainConfig
from train_head.data.split import split_examples
from train_head.solvers import Problem, ReducedShape, compute_reduced_shape

pytestmark = pytest.mark.unit


def test_compute_reduced_shape_counts_distinct_pictures(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 6, "train/dogs": 5, "validation/cats": 2, "validation/dogs": 2})
    contents = [hash_text(path) for path in paths]
    contents[3] = contents[1]
    store = make_store(tmp_path / "store", paths, contents=contents)
    config = TrainConfig(store.path, tmp_path / "run")
    problem = Problem(store, split_examples(store.examples, 0.2), config)
    assert compute_reduced_shape(problem) == ReducedShape(num_rows=10, rank=10)
    assert compute_reduced_shape(replace(problem, config=replace(config, rank=7))) == ReducedShape(10, 7)
    with raises(UsageError, where="--rank", got="11") as caught:
        compute_reduced_shape(replace(problem, config=replace(config, rank=11)))
    assert "10" in caught.value.expected
