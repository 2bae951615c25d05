"""Format the model card of an export: README.md, with the facts of the run and of the exported files."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.terminal import format_bytes, format_list, make_printable
from features.labels import split_labels
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING, SolverName
from train_head.evaluation.uncertainty import Selection, describe_results, format_percent, format_share
from train_head.export.config import Dtype, ExportConfig, Format
from train_head.export.description import ModelDescription
from train_head.export.formats import FORMATS
from train_head.export.readme.template import format_code, make_environment
from train_head.export.result import ExportResult
from train_head.runs.arguments import list_changed_options, list_extraction_options
from train_head.runs.read import Run

TEMPLATE = "README.md.jinja"
MAX_CLASSES = 30
"""Largest number of classes that are listed with their numbers of pictures."""
LIBRARIES = {Format.KERAS: "keras", Format.LITERT: "litert", Format.ONNX: "onnx", Format.OPENVINO: "openvino"}
"""Names of libraries on the Hugging Face Hub."""
EXPORT_OPTIONS = ("dtype", "factored", "outlier_score", "threshold")
"""Options of the export that change the model; the formats are those that were written."""
CPP_FORMATS = (Format.OPENVINO, Format.ONNX)
"""Formats that OpenVINO reads in C++, the preferred one first. It does not keep the names of LiteRT's outputs."""


@dataclass(frozen=True)
class ReadmeSources:
    """Sources of the facts in a model card."""

    run: Run
    store: FeatureStore
    description: ModelDescription
    result: ExportResult
    folder: Path
    """Folder with the files of the formats."""
    config: ExportConfig
    """Options of the export."""


def format_readme(sources: ReadmeSources) -> bytes:
    """Format README.md, in which no path of this machine occurs.

    Raises:
        HeadstartError: a file of the run cannot be read.
    """
    text = make_environment().get_template(TEMPLATE).render(collect_facts(sources))
    return text.encode("utf-8", "backslashreplace")


def collect_facts(sources: ReadmeSources) -> dict[str, Any]:
    """Collect the variables of the template."""
    run, description = sources.run, sources.description
    metrics, card, names = run.read_metrics(), description.card, [Format(name) for name in description.formats]
    evaluation = metrics.get("evaluation") or {}
    readable = [FORMATS[each].path for each in CPP_FORMATS if each in names]
    metric = "mean average precision" if card.is_multi_label and metrics.get("mean_average_precision") else "accuracy"
    value = metrics["mean_average_precision" if metric != "accuracy" else "val_accuracy"]
    labels = sources.store.contents.labels
    return {
        "library": next((LIBRARIES[each] for each in names if each in LIBRARIES), "keras"),
        "tags": ["headstart", "inception_v3", *(LIBRARIES[each] for each in names if each in LIBRARIES)],
        "metric": {"type": metric.replace(" ", "_"), "value": round(value, 4), "name": f"Validation {metric}"},
        "title": f"Picture classifier: {format_list(card.classes)}",
        "description": description,
        "names": names,
        "num_classes": len(card.classes),
        "is_multi_label": card.is_multi_label,
        "is_binary": len(card.classes) == 2 and not card.is_multi_label,
        "has_distance": card.outlier_threshold is not None,
        "has_keras_distance": description.has_distance,
        "cpp_model": readable[0] if readable else "",
        "formats": _list_formats(sources, names),
        "pictures": run.record.images,
        "num_train": metrics["num_train"],
        "num_validation": metrics["num_validation"],
        "split_rule": run.record.split_rule,
        "labelled_by": f"the table {labels.table}" if labels.table else "the names of the class folders",
        "counts": _list_counts(run, metrics),
        "results": _list_results(metrics, evaluation, is_multi_label=card.is_multi_label),
        "calibration": evaluation.get("calibration"),
        "outliers": metrics.get("outliers") if card.outlier_threshold is not None else None,
        "selection": Selection.read(metrics).describe(),
        "weights": card.weights,
        "training": _list_training(sources),
        "commands": _list_commands(sources),
        "versions": ", ".join(f"{name} {number}" for name, number in description.versions.items() if number),
    }


def _list_formats(sources: ReadmeSources, names: Sequence[Format]) -> Iterator[Sequence[str]]:
    result = sources.result
    checks = {check.format: check for check in result.checks}
    yield "file", "weights", "size", "largest difference of a probability", "changed classes"
    for each in names:
        path = sources.folder / FORMATS[each].path
        size = format_bytes(FORMATS[each].measure_bytes(sources.folder))
        shown = format_code(f"{path.name}/" if path.is_dir() else path.name)
        if each in checks:
            check = checks[each]
            changed = f"{check.num_changed} of {check.num_pictures}"
            yield shown, str(check.dtype), size, f"{check.max_difference:.2g} from Keras", changed
        else:
            parity = result.parity
            changed = f"{parity.num_flipped} of {parity.num_pictures}, from the stored features"
            yield shown, str(Dtype.FLOAT32), size, f"{parity.max_difference:.2g} from backbone and head", changed


def _list_counts(run: Run, metrics: dict[str, Any]) -> Iterator[Sequence[str]]:
    """List the classes with their numbers of pictures and shares; of many classes, only the fewest and the most."""
    counts: dict[str, Counter[str]] = {"train": Counter(), "validation": Counter()}
    for example in run.read_examples():
        labels = split_labels(example.label) if run.is_multi_label else [example.label]
        counts[example.split].update(labels)
    train, validation = counts["train"], counts["validation"]
    if len(run.classes) > MAX_CLASSES:
        sizes = [train[label] for label in run.classes]
        yield "classes", "training pictures of a class"
        yield f"{len(sizes):,}, listed in labels.txt", f"{min(sizes):,} to {max(sizes):,}"
        return
    shares = ("average_precision",) if run.is_multi_label else ("precision", "recall")
    yield "class", "training", "validation", *(share.replace("_", " ") for share in shares)
    per_class = metrics.get("per_class") or {}
    for label in run.classes:
        found = per_class.get(label) or {}
        numbers = [f"{train[label]:,}", f"{validation[label]:,}"]
        yield label, *numbers, *(format_share(found.get(share)) for share in shares)


def _list_results(
    metrics: dict[str, Any], evaluation: dict[str, Any], *, is_multi_label: bool
) -> Iterator[Sequence[str]]:
    yield "metric", "value"
    yield from describe_results(metrics)
    if not is_multi_label and evaluation.get("balanced_accuracy") is not None:
        yield "balanced accuracy", format_share(evaluation["balanced_accuracy"])
    if evaluation.get("log_loss") is not None:
        yield "log loss", f"{evaluation['log_loss']:.4f}"


def _list_training(sources: ReadmeSources) -> Iterator[Sequence[str]]:
    run, card, fingerprint = sources.run, sources.description.card, sources.store.fingerprint
    yield "", ""
    yield "backbone", f"InceptionV3 up to {card.cut}, pooling {card.pool}, pictures resized to {card.image_size} px"
    if run.unfreeze_from != NO_FINE_TUNING:
        yield "fine-tuned from", run.unfreeze_from
    yield "features", fingerprint.numbers
    yield "head", _describe_head(run)
    yield "date of training", run.record.created
    for name, digest in (("store", card.fingerprint), ("head", card.run), ("weights", card.weights_sha256)):
        if digest:
            yield f"fingerprint of the {name}", format_code(digest)


def _describe_head(run: Run) -> str:
    options = run.options
    if run.record.solver == SolverName.RIDGE:
        return "linear, fitted by the solver ridge"
    units, dropout = options.get("units", 0), format_percent(run.dropout)
    layers = f"{units:,} units with dropout {dropout}" if units else "linear"
    epochs = f"{options.get('epochs')} epochs of {options.get('optimizer')}"
    return (
        f"{layers}, fitted by the solver {run.record.solver} in {epochs}, learning rate {options.get('learning_rate')}"
    )


def _list_commands(sources: ReadmeSources) -> list[str]:
    run, store = sources.run, sources.store
    options = dict(run.options)
    if options.get("views") == 1:
        options["views"] = None
    if options.get("cut") == store.fingerprint.cut:
        options["cut"] = ""
    written = {"formats": ",".join(sources.description.formats)}
    exported = {name: getattr(sources.config, name) for name in EXPORT_OPTIONS} | written
    weights, images = sources.description.card.weights, run.record.images or "pictures"
    commands = [
        ["extract", "--images", images, "--store", "store", "--weights", weights, *list_extraction_options(store)],
        ["train", "--store", "store", "--run", "run", *list_changed_options(options)],
        ["export", "--run", "run", "--out", "model", *list_changed_options(exported, ExportConfig)],
    ]
    return [shlex.join(["headstart", *map(make_printable, words)]) for words in commands]
