"""Puts a run's report together: numbers, plots and pictures in one page that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import HeadstartError
from base.files import hash_file
from base.terminal import Console, format_seconds, make_printable
from train_head.config import ReportConfig, TrainConfig
from train_head.evaluation.evaluate import ReliabilityBin, check_evaluation, evaluate
from train_head.evaluation.metrics import check_metrics, find_largest_class
from train_head.evaluation.uncertainty import Interval, Selection, compute_interval, format_percent, format_share
from train_head.report import facts, words
from train_head.report.duplicates import NEAR, NUM_SHOWN, Pair, find_exact, find_nearest, load_means, measure_likeness
from train_head.report.figures import choose_drawn, draw_areas, draw_gap, draw_reliability
from train_head.report.gallery import Thumbnail, choose_unsure, choose_worst, draw_thumbnail
from train_head.report.sources import Sources, load_sources
from train_head.runs.read import Run
from train_head.runs.record import METRICS_FILE, REPORT_FILE
from train_head.runs.tables import Prediction
from train_head.runs.write import write_page

TEMPLATE = "page.html.jinja"
NUM_EXACT_SHOWN = 50


def report_run(config: TrainConfig, console: Console) -> Path | None:
    """Writes the report of a run that was just trained, where it has none of these metrics and one is wanted.

    A report that cannot be written costs itself and not the run.
    """
    path = config.run / REPORT_FILE
    if config.no_report:
        return None
    try:
        if path.is_file() and _hash_metrics(config.run) in path.read_text(encoding="utf-8", errors="replace"):
            return path
        return write_report(load_sources(ReportConfig(config.run)), console)
    except (HeadstartError, OSError) as error:
        console.warn(f"{config.run}: the run is kept, and has no report: {error}")
        return None


def write_report(sources: Sources, console: Console) -> Path:
    """Writes a run's report.html.

    Args:
        sources: the run, and what it was fitted on.
        console: told of damage in what was kept.

    Returns:
        The page's path.

    Raises:
        HeadstartError: the run or the store cannot be read.
        OSError: the page cannot be written.
    """
    return write_page(sources.run, render_report(sources, sources.run.folder, console))


def render_report(sources: Sources, place: Path, console: Console) -> bytes:
    """Return a run's report.

    Args:
        sources: the run, and what it was fitted on.
        place: the folder that the report names; another than the run's while the run is in a staging folder.
        console: shows damage in what was kept.

    Raises:
        HeadstartError: the run or the store cannot be read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    started = time.monotonic()
    run, store, split = sources.run, sources.store, sources.split
    folder = place.resolve()
    values = {
        "title": words.describe_title(run.record.classes),
        "subtitle": f"Report on a head trained by Headstart. Folder of the run: {make_printable(folder.name)}",
        "metrics_sha256": _hash_metrics(run.folder),
        **_describe_numbers(run),
        **_show_pictures(sources, console),
        "facts": facts.list_facts(run, store, split),
        "commands": facts.list_commands(folder),
    }
    times = [*facts.list_times(run, store), ("this page", format_seconds(time.monotonic() - started))]
    # What comes from a file's name or a class's is escaped, and a forgotten value is an error.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": format_percent, "share": format_share}
    page = environment.get_template(TEMPLATE).render(values, times=times)
    # A lone surrogate that no caller made printable costs a character, not the report.
    return page.encode("utf-8", "backslashreplace")


def read_evaluation(run: Run) -> dict[str, Any]:
    """Evaluate a run's head from its predictions, whatever version wrote it, with intervals that allow for a choice."""
    targets, probabilities = run.read_probabilities()
    found = evaluate(targets, probabilities, run.record.classes, _find_largest(run))
    right = sum(row[number] for number, row in enumerate(found.confusion))
    num_candidates = Selection.read(run.read_metrics()).num_candidates
    interval = list(compute_interval(right, found.num_pictures, num_candidates))
    return asdict(replace(found, accuracy_interval=interval))


def read_test(run: Run) -> dict[str, Any] | None:
    """Read how a run's head was evaluated on the pictures in test/; None where it was not.

    Raises:
        HeadstartError: what is kept of it is not an evaluation.
    """
    found = run.read_metrics().get("test")
    if found is None:
        return None
    try:
        test = check_evaluation(found, run.record.classes)
    except ValueError as error:
        advice = "Write the report again with --test (TEST=1)"
        raise HeadstartError(run.folder / METRICS_FILE, "an evaluation as test", str(error), advice) from error
    largest = _find_largest(run)
    share = sum(test["confusion"][largest]) / test["num_pictures"]
    return test | {"largest_class": run.record.classes[largest], "largest_class_share": share}


def _find_largest(run: Run) -> int:
    """Find the class with most training pictures."""
    labels = [example.label for example in run.read_examples() if example.side == "train"]
    classes = run.record.classes
    targets = np.array([classes.index(label) for label in labels if label in classes], np.int64)
    return find_largest_class(targets, len(classes))


def _hash_metrics(run: Path) -> str:
    """Return the digest that a page holds of the metrics it was made from."""
    return hash_file(run / METRICS_FILE)


def _describe_numbers(run: Run) -> dict[str, Any]:
    metrics, history, evaluation, test = run.read_metrics(), run.read_history(), read_evaluation(run), read_test(run)
    try:
        check_metrics(metrics, ("kept_epoch", "seconds", "train_accuracy", "train_loss", "num_train"))
        if not 1 <= metrics["kept_epoch"] <= len(history):
            raise ValueError(f"kept_epoch is {metrics['kept_epoch']} of {len(history)} epochs")
    except ValueError as error:
        advice = "Train again with --overwrite"
        raise HeadstartError(run.folder / METRICS_FILE, "metrics to report", str(error), advice) from error
    labels = [make_printable(label) for label in run.record.classes]
    targets, probabilities = run.read_probabilities()
    bins = [ReliabilityBin(**found) for found in evaluation["reliability"]]
    drawn = choose_drawn(targets, len(labels))
    return {
        "warnings": words.list_warnings(metrics, evaluation),
        "summary": words.summarize(metrics, evaluation),
        "choice": Selection.read(metrics).describe(),
        "evaluation": _make_plain(evaluation),
        "thresholds": words.list_thresholds(evaluation, metrics),
        "test": _make_plain(test) if test else None,
        "curves": draw_gap(history, metrics["kept_epoch"], metrics["train_accuracy"], metrics["train_loss"]),
        "curves_text": words.describe_curves(metrics, history),
        "areas": draw_areas(targets, probabilities, labels, drawn),
        "areas_text": words.describe_areas(evaluation, labels, drawn),
        "reliability": draw_reliability(bins, f"of {labels[1]}" if len(labels) == 2 else "of the predicted class"),
        "reliability_text": words.describe_reliability(evaluation, labels),
    }


def _show_pictures(sources: Sources, console: Console) -> dict[str, Any]:
    split, predictions = sources.split, sources.run.read_predictions()
    worst, unsure = choose_worst(predictions), choose_unsure(predictions)
    exact = find_exact(split.train, [*split.validation, *split.test])
    means = load_means(sources.store, split, console)
    nearest = find_nearest(split, means) if means else []
    num_near = sum(pair.similarity >= NEAR for pair in nearest)
    near = nearest[: max(NUM_SHOWN, min(2 * NUM_SHOWN, num_near))]
    hash_of = {example.path: bytes.fromhex(example.content_hash) for example in sources.run.read_examples()}
    hash_of |= {example.path: example.content_hash for example in (*split.validation, *split.train)}
    paths = {found.path for found in (*worst, *unsure)} | {example.path for pair in near for example in pair[:2]}
    thumbnails = _draw_thumbnails(sources.images, {path: hash_of.get(path, b"") for path in sorted(paths)})
    return {
        "worst": [_make_card(found, thumbnails) for found in worst],
        "worst_text": words.count_wrong(predictions, len(worst)),
        "unsure": [_make_card(found, thumbnails) for found in unsure],
        "exact": [_make_pair(pair, {}) for pair in exact[:NUM_EXACT_SHOWN]],
        "exact_text": words.count_exact(len(exact), NUM_EXACT_SHOWN),
        "near": [_make_pair(pair, thumbnails) for pair in near],
        "near_text": words.count_near(num_near if means else None, measure_likeness(means) if means else 0.0),
    }


def _draw_thumbnails(folder: Path, hash_of: Mapping[str, bytes]) -> dict[str, Thumbnail]:
    with ThreadPoolExecutor() as pool:
        drawn = pool.map(lambda path: draw_thumbnail(folder / path, hash_of[path]), hash_of)
        return dict(zip(hash_of, drawn, strict=True))


def _make_card(found: Prediction, thumbnails: Mapping[str, Thumbnail]) -> dict[str, Any]:
    return {
        "path": make_printable(found.path),
        "label": make_printable(found.label),
        "predicted": make_printable(found.predicted),
        "probability": found.probabilities[found.predicted],
        "truth_probability": found.probabilities[found.label],
        "thumbnail": thumbnails[found.path],
    }


def _make_pair(pair: Pair, thumbnails: Mapping[str, Thumbnail]) -> dict[str, Any]:
    return {
        "held_out": make_printable(pair.held_out.path),
        "train": make_printable(pair.train.path),
        "similarity": words.format_similarity(pair.similarity),
        "is_near": pair.similarity >= NEAR,
        "left": thumbnails.get(pair.held_out.path),
        "right": thumbnails.get(pair.train.path),
    }


def _make_plain(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation as it is shown: printable names, and no share of nothing."""
    classes: Sequence[Mapping[str, Any]] = evaluation["classes"]
    plain = []
    for found, *predicted in zip(classes, *evaluation["confusion"], strict=True):
        undefined = {"precision"} if not sum(predicted) else set()
        undefined |= {"recall", "f1"} if not found["num_pictures"] else set()
        plain.append({**found, "label": make_printable(found["label"]), **dict.fromkeys(undefined)})
    plain_label = make_printable(evaluation["largest_class"])
    interval = Interval(*evaluation["accuracy_interval"]).format_percent()
    return {**evaluation, "largest_class": plain_label, "classes": plain, "interval": interval}
