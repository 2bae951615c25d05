"""The choice of a solver: by time, among those that memory allows, and with its reasons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from features.errors import UsageError
from tests.train_head.made import hash_text, list_paths, make_store
from train_head.config import SolverName, TrainConfig
from train_head.solvers import Problem
from train_head.solvers.choose import Sizes, choose_solver, estimate_full, estimate_reduced, measure_sizes
from train_head.split import split_examples

GB = 10**9
COURSE = Sizes(
    num_train=800, num_rows=800, num_validation=200, num_inputs=37_632, units=1024, batch_size=20, epochs=20, rank=512
)
"""800 pictures at 150 px, as a course has them."""
FEW_INPUTS = replace(COURSE, num_train=4000, num_rows=4000, num_inputs=64, units=64, rank=64)
MANY_PICTURES = replace(COURSE, num_train=500_000, num_rows=500_000, num_validation=100_000, units=64)


def test_choose_solver_for_a_course_takes_the_reduced_one_and_names_both_estimates() -> None:
    full, reduced = estimate_full(COURSE, 8 * GB), estimate_reduced(COURSE)
    assert reduced.seconds < full.seconds
    assert choose_solver(COURSE, 8 * GB) == (SolverName.REDUCED, f"about {reduced} reduced, {full} full")


def test_choose_solver_for_few_inputs_takes_the_full_one_where_it_is_faster() -> None:
    full, reduced = estimate_full(FEW_INPUTS, 8 * GB), estimate_reduced(FEW_INPUTS)
    assert full.seconds < reduced.seconds
    assert choose_solver(FEW_INPUTS, 8 * GB) == (SolverName.FULL, f"about {reduced} reduced, {full} full")


def test_choose_solver_takes_the_faster_full_one_only_where_it_fits() -> None:
    full, reduced = estimate_full(FEW_INPUTS, GB), estimate_reduced(FEW_INPUTS)
    assert reduced.num_bytes < full.num_bytes
    assert choose_solver(FEW_INPUTS, full.num_bytes)[0] is SolverName.FULL
    assert choose_solver(FEW_INPUTS, full.num_bytes - 1)[0] is SolverName.REDUCED


def test_choose_solver_takes_the_slower_full_one_where_only_that_fits() -> None:
    free = int(1.5 * GB)
    full, reduced = estimate_full(MANY_PICTURES, free), estimate_reduced(MANY_PICTURES)
    assert reduced.seconds < full.seconds
    assert full.num_bytes < free < reduced.num_bytes
    expected = f"about {reduced} reduced, {full} full; 1.5 GB are free"
    assert choose_solver(MANY_PICTURES, free) == (SolverName.FULL, expected)
    assert choose_solver(MANY_PICTURES, reduced.num_bytes)[0] is SolverName.REDUCED
    assert choose_solver(MANY_PICTURES, full.num_bytes)[0] is SolverName.FULL


def test_choose_solver_where_neither_fits_takes_the_reduced_one() -> None:
    assert choose_solver(COURSE, 10**6)[0] is SolverName.REDUCED
    assert choose_solver(MANY_PICTURES, 10**6)[0] is SolverName.REDUCED


@pytest.mark.parametrize(
    "fields",
    [("num_train", "num_rows"), ("num_rows",), ("num_validation",), ("num_inputs",), ("units",), ("epochs",)],
    ids=["pictures", "views", "validation", "inputs", "units", "epochs"],
)
@pytest.mark.parametrize("sizes", [COURSE, MANY_PICTURES])
def test_estimates_of_twice_as_much_are_larger(sizes: Sizes, fields: tuple[str, ...]) -> None:
    twice = replace(sizes, **{field: 2 * getattr(sizes, field) for field in fields})
    assert estimate_full(twice, 8 * GB).seconds > estimate_full(sizes, 8 * GB).seconds
    assert estimate_reduced(twice).seconds > estimate_reduced(sizes).seconds
    assert estimate_reduced(twice).num_bytes >= estimate_reduced(sizes).num_bytes


def test_estimate_full_beyond_memory_holds_less_and_reads_each_epoch() -> None:
    held, read = estimate_full(MANY_PICTURES, 10**12), estimate_full(MANY_PICTURES, 8 * GB)
    assert read.num_bytes < held.num_bytes
    assert read.seconds > held.seconds


def test_measure_sizes_counts_pictures_and_bounds_the_rank_by_different_ones(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 6, "train/dogs": 5, "validation/cats": 2, "validation/dogs": 2})
    contents = [hash_text(path) for path in paths]
    contents[3] = contents[1]
    store = make_store(tmp_path / "store", paths, contents=contents)
    config = TrainConfig(store.path, tmp_path / "run", epochs=3, units=9, batch_size=4)
    problem = Problem(store, split_examples(store.examples, 0.2), config)
    expected = Sizes(11, 11, num_validation=4, num_inputs=12, units=9, batch_size=4, epochs=3, rank=10)
    assert measure_sizes(problem) == expected
    assert measure_sizes(replace(problem, config=replace(config, rank=7))) == replace(expected, rank=7)
    with pytest.raises(UsageError, match="--rank: expected at most 10,"):
        measure_sizes(replace(problem, config=replace(config, rank=11)))
