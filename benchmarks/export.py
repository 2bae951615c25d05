"""Accuracy, size, speed and memory of exported models in every format, as the table in docs/how-to/export.md.

Run `python -m benchmarks.export RUN...`. Each run is exported once for each number format of the weights. Each model is
then measured in a fresh process, several times in turn, and once on all validation pictures.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Argument, Option

from base.command_line import run_app
from base.errors import HeadstartError
from base.terminal import Console, format_bytes
from benchmarks.exported import NUM_WARM
from extract.decoding.decode import DEFAULT_POLICY
from extract.decoding.policy import find_policy
from train_head.data.batches import Array
from train_head.data.split import Targets, order_by_class
from train_head.evaluation.metrics import LABEL_THRESHOLD, find_correct, predict_classes
from train_head.export.config import Dtype, Format
from train_head.export.formats import FORMATS
from train_head.export.pictures import Pictures
from train_head.export.readme.template import format_table
from train_head.runs.read import Run

HEADER = (
    *("run", "format", "weights", "accuracy", "largest difference", "changed", "size"),
    *("load", "one picture", "peak memory"),
)


@dataclass(frozen=True)
class ExportBenchmarkConfig:
    """Options of the benchmark."""

    runs: Annotated[list[Path], Argument(help="Folders of the runs.")]
    formats: Annotated[str, Option(help="Formats, separated by commas.")] = ",".join(Format)
    dtypes: Annotated[str, Option(help="Number formats of the weights, separated by commas.")] = ",".join(Dtype)
    repeats: Annotated[int, Option(min=1, help="Number of processes in which each model is timed.")] = 5
    num_timed: Annotated[int, Option(min=1, help="Number of pictures that each process is timed on.")] = 32
    out: Annotated[Path | None, Option(help="Folder to keep the exports in; they are not exported again.")] = None


@dataclass(frozen=True)
class _Model:
    """Exported model in one format."""

    run: Run
    format: Format
    dtype: Dtype
    folder: Path
    pictures: Path
    """The validation pictures as arrays, in the order of `targets`."""
    targets: Targets

    @property
    def path(self) -> Path:
        return self.folder / FORMATS[self.format].path

    def measure(self, *arguments: object) -> dict[str, float]:
        """Measure the model in a fresh process."""
        command = [sys.executable, "-m", "benchmarks.exported", self.format, self.path, self.pictures, *arguments]
        done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def measure_exports(config: ExportBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Export runs in all formats, measure the models, and print a Markdown table."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="headstart-") as scratch:
        out = config.out or Path(scratch)
        models = [model for path in config.runs for model in _export(Run(path), config, out, Path(scratch), console)]
        times: list[list[dict[str, float]]] = [[] for _ in models]
        for repeat in range(config.repeats):
            for model, found in zip(models, times, strict=True):
                console.info(f"round {repeat + 1}: {model.path}")
                found.append(model.measure(config.num_timed))
        references: dict[Path, Array] = {}
        for model, found in zip(models, times, strict=True):
            output = Path(scratch, "probabilities.npy")
            model.measure(1, output)
            probabilities = np.load(output)
            # The Keras model is the first of each run.
            reference = references.setdefault(model.run.folder, probabilities)
            medians = {name: statistics.median(time[name] for time in found) for name in found[0]}
            rows.append(_describe(model, probabilities, reference) | medians)
    if not console.options.json:
        print(format_table(_list_rows(rows)))
    return {"rows": rows}


def _export(run: Run, config: ExportBenchmarkConfig, out: Path, scratch: Path, console: Console) -> Iterator[_Model]:
    """Export a run in all formats; yield the models, of which the first is in the format keras."""
    pictures, targets = _save_pictures(run, scratch, console)
    wanted = [Format.KERAS, *(Format(name) for name in config.formats.split(",") if name != Format.KERAS)]
    for dtype in map(Dtype, config.dtypes.split(",")):
        formats = [each for each in wanted if dtype in FORMATS[each].dtypes]
        folder = out / f"{run.folder.name}-{dtype}"
        if not folder.exists():
            names = ",".join(formats)
            console.info(f"exporting {run.folder} to {names} with {dtype} weights")
            arguments = ["--run", run.folder, "--out", folder, "--formats", names, "--dtype", dtype, "-q"]
            # A format that fails its check is reported, and left out of the table.
            subprocess.run([sys.executable, "-m", "train_head.export", *map(str, arguments)], check=False)
        for each in formats:
            if (folder / FORMATS[each].path).exists():
                yield _Model(run, each, dtype, folder, pictures, targets)


def _save_pictures(run: Run, scratch: Path, console: Console) -> tuple[Path, Targets]:
    """Decode a run's validation pictures in their original sizes into a file, and return it with their targets."""
    store = run.open_store()
    policy = find_policy(store.fingerprint.decode_policy) or DEFAULT_POLICY
    ordered = order_by_class(run.find_split(store).validation)
    with tempfile.TemporaryFile() as file:
        pictures = Pictures(Path(run.find_images(store)), ordered, store.fingerprint.image_size, file, policy=policy)
        pictures.load(console)
    path = scratch / f"{run.record.head}.npz"
    arrays: dict[str, Any] = {str(number): pictures.read_raw(example) for number, example in enumerate(pictures.loaded)}
    np.savez(path, **arrays)
    if len(pictures.loaded) <= NUM_WARM:
        raise HeadstartError(run.folder, "more validation pictures", str(len(pictures.loaded)), "Give another run")
    return path, run.encode(pictures.loaded)


def _describe(model: _Model, probabilities: Array, reference: Array) -> dict[str, Any]:
    if model.run.is_multi_label:
        changed = ((probabilities >= LABEL_THRESHOLD) != (reference >= LABEL_THRESHOLD)).any(axis=1)
    else:
        changed = predict_classes(probabilities) != predict_classes(reference)
    return {
        "run": model.run.folder.name,
        "format": str(model.format),
        "dtype": str(model.dtype),
        "accuracy": float(find_correct(model.targets, probabilities).mean()),
        "max_difference": float(np.abs(probabilities - reference).max()),
        "num_changed": int(changed.sum()),
        "num_pictures": len(probabilities),
        "num_bytes": FORMATS[model.format].measure_bytes(model.folder),
    }


def _list_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    yield HEADER
    for row in rows:
        is_reference = row["format"] == Format.KERAS
        yield (
            *(row["run"], row["format"], row["dtype"], f"{row['accuracy']:.4f}"),
            "" if is_reference else f"{row['max_difference']:.2g}",
            "" if is_reference else f"{row['num_changed']} of {row['num_pictures']}",
            format_bytes(row["num_bytes"]),
            f"{row['load_seconds']:.2f} s",
            f"{1000 * row['picture_seconds']:.1f} ms",
            format_bytes(row["peak_bytes"]),
        )


if __name__ == "__main__":
    run_app(measure_exports, ExportBenchmarkConfig, "python -m benchmarks.export")
