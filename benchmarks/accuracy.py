"""Accuracy of a head over repeated random splits of a store's pictures, whatever folders the pictures are in.

Run `python -m benchmarks.accuracy --store work/elpv/store-accurate --cut mixed5,mixed6,mixed7,mixed8`. With
`--groups FILE`, pictures of one group are on one side of each split. `--solar-modules` finds the groups of
elpv-dataset, whose table lists the cells of one module after another: a group starts at each change between mono- and
polycrystalline cells, and after every 60 cells, the usual number in a module.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from typer import Option

from base.command_line import run_app
from base.errors import HeadstartError
from base.terminal import Console, ConsoleOptions
from features.cuts import open_store
from features.options import Pool, split_cuts
from features.store import Example
from features.validation_split import sort_examples
from train_head.config import HeadConfig, SolverName, TrainConfig
from train_head.data.split import Split
from train_head.prepare import scale_store
from train_head.solvers import Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.train import import_solver
from train_head.trials import evaluate_fit

CELLS_PER_MODULE = 60


@dataclass(frozen=True)
class AccuracyBenchmarkConfig:
    """Options of the benchmark."""

    store: Annotated[Path, Option(help="Folder of the feature store.")]
    cut: Annotated[str, Option(help="Cut layers to train on, separated by commas.")] = ""
    pool: Annotated[Pool, Option(help="Pooling of stored features with height and width.")] = Pool.NONE
    solver: Annotated[SolverName, Option(help="Solver: ridge, reduced or full.")] = SolverName.RIDGE
    splits: Annotated[int, Option(min=1, help="Number of random splits.")] = 20
    share: Annotated[float, Option(min=0.01, max=0.9, help="Share of the pictures to evaluate on.")] = 0.25
    groups: Annotated[Path | None, Option(help="CSV table with columns path and group.", metavar="FILE")] = None
    solar_modules: Annotated[bool, Option("--solar-modules", help="Use the modules of elpv-dataset as groups.")] = False


def measure_accuracy(config: AccuracyBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Fit a head on each of several random splits, and print the mean and the standard deviation of its accuracy."""
    store = open_store(config.store, config.cut, config.pool, [1.0] * len(split_cuts(config.cut)))
    examples = sort_examples(store.examples)
    group_of = read_groups(config)
    options: dict[str, Any] = {field.name: field.default for field in fields(HeadConfig)}
    options |= {"cut": store.fingerprint.cut, "pool": config.pool, "solver": config.solver}
    accuracies = []
    with console.progress("fit", config.splits, "splits") as progress:
        for seed in range(config.splits):
            split = draw_split(examples, group_of, config.share, seed)
            trained = TrainConfig(store=config.store, run=Path(), **(options | {"seed": seed}))
            fit = import_solver(config.solver)(
                Problem(scale_store(store, split), split, trained),
                Checkpoint(None),
                Console(ConsoleOptions(quiet=True)),
            )
            accuracies.append(evaluate_fit(fit, split).val_accuracy)
            progress.advance(1, f"accuracy {accuracies[-1]:.4f}")
    mean, std = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    title = f"{config.splits} splits, {config.share:.0%} of {len(examples):,} pictures evaluated"
    groups = f"{len(set(group_of.values()))} groups on one side each" if group_of else "single pictures"
    console.show_table(title, [("split by", groups), ("accuracy", f"{mean:.4f}, standard deviation {std:.4f}")])
    return {"accuracies": accuracies, "mean": mean, "std": std}


def read_groups(config: AccuracyBenchmarkConfig) -> dict[str, str]:
    """Return the group of each picture by the name of its file; empty without groups."""
    if config.groups:
        with config.groups.open(newline="") as file:
            return {PurePosixPath(row["path"]).name: row["group"] for row in csv.DictReader(file)}
    if not config.solar_modules:
        return {}
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise HeadstartError("elpv-dataset", "an installed package", "none", "Run `pip install elpv-dataset`")
    lines = (Path(spec.origin).parent / "data/labels.csv").read_text().splitlines()
    rows = [line.split() for line in lines if line.strip()]
    found: dict[str, str] = {}
    for number, (_, cells) in enumerate(itertools.groupby(rows, key=lambda row: row[2])):
        for place, (path, *_) in enumerate(cells):
            found[PurePosixPath(path).name] = f"{number}-{place // CELLS_PER_MODULE}"
    return found


def draw_split(examples: Sequence[Example], group_of: Mapping[str, str], share: float, seed: int) -> Split:
    """Draw the pictures to evaluate on: stratified by class, or whole groups until the share is reached."""
    rng = np.random.default_rng(seed)
    held_out: set[bytes] = set()
    if group_of:
        groups = [group_of[PurePosixPath(example.path).name] for example in examples]
        names = sorted(set(groups))
        for number in rng.permutation(len(names)):
            if len(held_out) >= share * len(examples):
                break
            chosen = (e.content_hash for e, group in zip(examples, groups, strict=True) if group == names[number])
            held_out.update(chosen)
    else:
        for label in sorted({example.label for example in examples}):
            hashes = sorted({example.content_hash for example in examples if example.label == label})
            held_out.update(hashes[place] for place in rng.permutation(len(hashes))[: round(share * len(hashes))])
    return Split(
        [example for example in examples if example.content_hash not in held_out],
        [example for example in examples if example.content_hash in held_out],
        "random",
    )


if __name__ == "__main__":
    run_app(measure_accuracy, AccuracyBenchmarkConfig, "python -m benchmarks.accuracy")
