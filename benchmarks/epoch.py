"""Time of an epoch and of a whole training: the loop of courses, Keras on stored features, and the reduced solver.

All are timed in turn in one run. The tables show medians and ratios.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from base.command_line import run_app
from base.terminal import Console, ConsoleOptions, format_bytes, format_seconds, import_quietly
from benchmarks.process import Cost, run_module
from extract.config import ExtractConfig
from features.schema import DERIVED_FOLDER
from features.store import FeatureStore
from train_head.config import TrainConfig
from train_head.data.split import split_examples
from train_head.solvers import Problem, Solve
from train_head.solvers.checkpoint import Checkpoint

EPOCHS = 20


@dataclass(frozen=True)
class EpochBenchmarkConfig:
    """Options of the benchmark."""

    images: Annotated[Path, Option(help="Folder of pictures, as for `python -m extract`.")] = Path("data/elpv")
    weights: Annotated[str, Option(help="Weights, as for `python -m extract`.")] = "auto"
    repeats: Annotated[int, Option(min=1, help="Number of measurements of each kind; the median is reported.")] = 3


@dataclass
class _Times:
    """Measurements of each kind."""

    course: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)
    reduced: list[float] = field(default_factory=list)
    first: list[Cost] = field(default_factory=list)
    again: list[Cost] = field(default_factory=list)


def measure_epochs(config: EpochBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Measure an epoch of each kind, and whole trainings of 20 epochs."""
    import_quietly("keras")
    from benchmarks.course import CourseLoop
    from extract.run import extract_features
    from train_head.finetuning.backbone import rebuild_backbone
    from train_head.solvers.full import fit_full
    from train_head.solvers.reduced import fit_reduced

    with tempfile.TemporaryDirectory() as scratch:
        extraction = ExtractConfig(config.images, Path(scratch, "store"), weights=config.weights)
        extracted = extract_features(extraction, console)
        store = FeatureStore(extraction.store)
        split = split_examples(store.examples, 0.2)
        problem = Problem(store, split, TrainConfig(store=extraction.store, run=Path(scratch, "run"), epochs=3))
        course = CourseLoop(config.images, rebuild_backbone(store, "", console), split, Path(scratch, "links"))
        course.time_epoch()
        times = _Times()
        with console.progress("measure", config.repeats, "rounds") as progress:
            for number in range(config.repeats):
                times.course.append(course.time_epoch())
                times.full.append(_time_epoch(fit_full, problem))
                times.reduced.append(_time_epoch(fit_reduced, problem))
                shutil.rmtree(extraction.store / DERIVED_FOLDER)
                times.first.append(_run_training(extraction.store, Path(scratch, f"first-{number}")))
                times.again.append(_run_training(extraction.store, Path(scratch, f"again-{number}")))
                progress.advance(1)
    return _show(times, extracted.seconds, f"{len(split.train):,} + {len(split.validation):,} pictures", console)


def _time_epoch(solve: Solve, problem: Problem) -> float:
    """Return the seconds of the last epoch of a fit; the first one also traces the graph."""
    silent = Console(ConsoleOptions(quiet=True))
    return solve(problem, Checkpoint(None), silent).history[-1].seconds


def _run_training(store: Path, run: Path) -> Cost:
    options = ["--solver", "reduced", "--no-report", "--epochs", str(EPOCHS)]
    return run_module("train_head", ["--store", str(store), "--run", str(run), *options])


def _show(times: _Times, extraction: float, pictures: str, console: Console) -> Mapping[str, Any]:
    course, full, reduced = (statistics.median(kind) for kind in (times.course, times.full, times.reduced))
    first, again = (statistics.median(cost.seconds for cost in kind) for kind in (times.first, times.again))
    memory_first, memory_again = (max(cost.peak_bytes for cost in kind) for kind in (times.first, times.again))
    console.show_table(
        f"one epoch, {pictures}, medians of {len(times.course)}",
        [
            ("frozen backbone in every epoch", f"{course:.1f} s", "1 x", ""),
            ("Keras fit on stored features", f"{full:.1f} s", f"{course / full:.1f} x", "1 x"),
            ("reduced solver", f"{reduced:.3f} s", f"{course / reduced:.0f} x", f"{full / reduced:.0f} x"),
        ],
    )
    console.show_table(
        f"{EPOCHS} epochs, whole process",
        [
            ("frozen backbone in every epoch", format_seconds(EPOCHS * course), "1 x", ""),
            ("extraction, once", format_seconds(extraction), "", ""),
            ("first `make train`", f"{first:.2f} s", f"{EPOCHS * course / first:.0f} x", format_bytes(memory_first)),
            (
                "each later run (reduction cached)",
                f"{again:.2f} s",
                f"{EPOCHS * course / again:.0f} x",
                format_bytes(memory_again),
            ),
        ],
    )
    return {
        "course_seconds": times.course,
        "full_seconds": times.full,
        "reduced_seconds": times.reduced,
        "extraction_seconds": extraction,
        "first": [cost._asdict() for cost in times.first],
        "again": [cost._asdict() for cost in times.again],
        "epoch_ratio": full / reduced,
        "first_ratio": EPOCHS * course / first,
        "again_ratio": EPOCHS * course / again,
    }


if __name__ == "__main__":
    run_app(measure_epochs, EpochBenchmarkConfig, "python -m benchmarks.epoch")
