"""Time of an epoch of fine-tuning, from stored features and from pixels.

Both train the same layers and the same head on the same pictures. They are timed in turn in one run, and medians are
reported.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from base.command_line import run_app
from base.terminal import Console, ConsoleOptions, import_quietly
from extract.config import ExtractConfig
from features.cuts import open_store
from features.options import Pool
from train_head.config import TrainConfig
from train_head.data.split import split_examples
from train_head.solvers import Problem
from train_head.solvers.checkpoint import Checkpoint


@dataclass(frozen=True)
class TuningBenchmarkConfig:
    """Options of the benchmark."""

    images: Annotated[Path, Option(help="Folder of pictures, as for `python -m extract`.")] = Path("data/elpv")
    weights: Annotated[str, Option(help="Weights, as for `python -m extract`.")] = "auto"
    boundaries: Annotated[str, Option(help="Cut layers after which to train, comma-separated.")] = "mixed6,mixed5"
    repeats: Annotated[int, Option(min=1, help="Number of measurements of each kind; the median is reported.")] = 3


def measure_tuning(config: TuningBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Measure an epoch of fine-tuning from stored features and from pixels."""
    import_quietly("keras")
    from benchmarks.course import CourseLoop
    from extract.run import extract_features
    from train_head.finetuning.fit import add_fine_tuning
    from train_head.finetuning.tail import open_tail
    from train_head.solvers.reduced import fit_reduced

    silent = Console(ConsoleOptions(quiet=True))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stores = Path(scratch, "stores")
        extract_features(ExtractConfig(config.images, stores, weights=config.weights, cut=config.boundaries), console)
        for boundary in config.boundaries.split(","):
            store = open_store(stores, boundary)
            split = split_examples(store.examples, 0.2)
            tail = open_tail(store, boundary, Pool.NONE, "", silent)
            options = TrainConfig(
                store=stores, run=Path(scratch, "run"), epochs=1, fine_tune_epochs=2, unfreeze_from=boundary
            )
            for layer in tail.list_layers():
                layer.trainable = True
            course = CourseLoop(config.images, tail.build_feature_extractor(), split, Path(scratch, boundary), 1e-5)
            course.time_epoch()
            cached, pixels = [], []
            with console.progress(f"measure {boundary}", config.repeats, "rounds") as progress:
                for _ in range(config.repeats):
                    pixels.append(course.time_epoch())
                    fit = add_fine_tuning(fit_reduced, tail)(Problem(store, split, options), Checkpoint(None), silent)
                    # The first epoch also traces the graph.
                    cached.append(fit.history[-1].seconds)
                    progress.advance(1)
            found[boundary] = {"cached_seconds": cached, "pixel_seconds": pixels, "num_layers": len(tail.trained)}
    rows = [
        (boundary, f"{times['num_layers']} layers", f"{pixels:.1f} s from pixels", f"{cached:.1f} s cached", ratio)
        for boundary, times in found.items()
        for pixels, cached in [(statistics.median(times["pixel_seconds"]), statistics.median(times["cached_seconds"]))]
        for ratio in [f"{pixels / cached:.1f} x"]
    ]
    pictures = f"{len(split.train):,} + {len(split.validation):,} pictures"
    console.show_table(f"one epoch of fine-tuning, {pictures}, medians of {config.repeats}", rows)
    return found


if __name__ == "__main__":
    run_app(measure_tuning, TuningBenchmarkConfig, "python -m benchmarks.tuning")
