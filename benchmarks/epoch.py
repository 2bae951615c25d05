"""What one epoch costs with and without the cache: the course's loop against training on stored features.

Prints a table with ratios; both sides are timed in turn in one process, and medians are reported.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from extract.config import ExtractConfig
from features.command import run_app
from features.console import Console, ConsoleOptions, import_quietly
from features.store import Example, FeatureStore
from train_head.config import TrainConfig
from train_head.split import Split, split_examples


@dataclass(frozen=True)
class EpochBenchmarkConfig:
    """What to measure on."""

    images: Annotated[Path, Option(help="Folder of pictures, as for `python -m extract`.")] = Path("data/elpv")
    weights: Annotated[str, Option(help="As for `python -m extract`.")] = "auto"
    repeats: Annotated[int, Option(min=1, help="Epochs of each kind; the median counts.")] = 3


def measure_epochs(config: EpochBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Measure an epoch of the course's loop, the extraction, and an epoch on stored features."""
    import_quietly("keras")
    from extract.run import extract_features
    from train_head.solvers.full import fit_full

    silent = Console(ConsoleOptions(quiet=True))
    with tempfile.TemporaryDirectory() as scratch:
        extraction = ExtractConfig(config.images, Path(scratch, "store"), weights=config.weights)
        extracted = extract_features(extraction, console)
        store = FeatureStore(extraction.store)
        split = split_examples(store.examples, 0.2)
        train = TrainConfig(store=extraction.store, run=Path(scratch, "run"), epochs=2)
        course = _CourseLoop(config, store, split, Path(scratch, "links"))
        course.time_epoch()
        course_seconds, cached_seconds = [], []
        for _ in range(config.repeats):
            course_seconds.append(course.time_epoch())
            # The first epoch of a fit also traces the graph.
            cached_seconds.append(fit_full(store, split, train, silent).history[-1].seconds)
    course_median, cached_median = statistics.median(course_seconds), statistics.median(cached_seconds)
    console.show_table(
        f"one epoch, {len(split.train):,} training and {len(split.validation):,} validation pictures",
        [
            ("frozen backbone in every epoch", f"{course_median:.1f} s", "1 x"),
            (
                "on stored features, Keras fit",
                f"{cached_median:.1f} s",
                f"{course_median / cached_median:.1f} x",
            ),
            (
                "extraction, once",
                f"{extracted.seconds:.1f} s",
                f"{extracted.seconds / course_median:.2f} epochs",
            ),
        ],
    )
    return {
        "course_seconds": course_seconds,
        "cached_seconds": cached_seconds,
        "extraction_seconds": extracted.seconds,
        "ratio": course_median / cached_median,
    }


class _CourseLoop:
    """Transfer learning as courses teach it: pictures through the frozen backbone in every epoch."""

    def __init__(self, config: EpochBenchmarkConfig, store: FeatureStore, split: Split, links: Path) -> None:
        import keras

        from extract.weights import find_weights
        from train_head.head import build_head
        from train_head.stitch import rebuild_backbone

        silent = Console(ConsoleOptions(quiet=True))
        backbone = rebuild_backbone(store, str(find_weights(config.weights, silent).path or "random"), silent)
        head = build_head(store.feature_shape, len(split.classes), 1024, 0.2)
        self._model = keras.Sequential([keras.layers.Rescaling(1 / 127.5, offset=-1), backbone, head])
        binary = len(split.classes) == 2
        self._model.compile(
            optimizer=keras.optimizers.RMSprop(1e-4),
            loss="binary_crossentropy" if binary else "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        for name, examples in (("train", split.train), ("validation", split.validation)):
            _link(config.images, examples, links / name)
        size = (store.fingerprint.image_size,) * 2
        self._train, self._validation = (
            keras.utils.image_dataset_from_directory(
                links / name,
                label_mode="binary" if binary else "int",
                image_size=size,
                batch_size=20,
                verbose=False,
            )
            for name in ("train", "validation")
        )

    def time_epoch(self) -> float:
        started = time.monotonic()
        self._model.fit(self._train, validation_data=self._validation, verbose=0)
        return time.monotonic() - started


def _link(images: Path, examples: Sequence[Example], folder: Path) -> None:
    for number, example in enumerate(examples):
        link = folder / example.label / f"{number:06}{Path(example.path).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((images / example.path).resolve())


if __name__ == "__main__":
    run_app(measure_epochs, EpochBenchmarkConfig, "python -m benchmarks.epoch")
