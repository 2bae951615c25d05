"""Puts a run's report together: numbers, plots and pictures in one page that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from features.console import Console, format_seconds, make_printable
from features.durable import write_durably
from features.errors import HeadstartError
from train_head.config import ReportConfig, TrainConfig
from train_head.evaluation import ReliabilityBin, evaluate
from train_head.report import words
from train_head.report.duplicates import NEAR, NUM_SHOWN, Pair, find_exact, find_nearest, load_means, measure_likeness
from train_head.report.figures import draw_areas, draw_gap, draw_reliability
from train_head.report.gallery import Thumbnail, choose_unsure, choose_worst, draw_thumbnail
from train_head.report.sources import Sources, load_sources
from train_head.run import REPORT_FILE, Prediction, Run

TEMPLATE = "page.html.jinja"
NUM_EXACT_SHOWN = 50


def report_run(config: TrainConfig, console: Console) -> Path | None:
    """Writes the report of a run that was just trained, where it has none and one is wanted.

    A report that cannot be written costs itself and not the run.
    """
    path = config.run / REPORT_FILE
    if config.no_report:
        return None
    if path.is_file():
        return path
    try:
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    started = time.monotonic()
    run, store, split = sources.run, sources.store, sources.split
    values = {
        "title": " or ".join(map(make_printable, run.record.classes)),
        "subtitle": f"Headstart's report on the run {make_printable(run.folder.resolve().name)}",
        **_describe_numbers(run),
        **_show_pictures(sources, console),
        "facts": words.list_facts(run, store, split),
        "commands": words.list_commands(run),
    }
    times = [*words.list_times(run, store), ("this page", format_seconds(time.monotonic() - started))]
    # What comes from a file's name or a class's is escaped, and a forgotten value is an error.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template(TEMPLATE).render(values, times=times)
    path = run.folder / REPORT_FILE
    write_durably(path, page.encode())
    return path


def read_evaluation(run: Run) -> dict[str, Any]:
    """Reads how a run's head was evaluated; for one from before there was such a thing, evaluates it."""
    if found := run.read_metrics().get("evaluation"):
        return dict(found)
    targets, probabilities = run.read_probabilities()
    return asdict(evaluate(targets, probabilities, run.record.classes))


def _describe_numbers(run: Run) -> dict[str, Any]:
    metrics, history, evaluation = run.read_metrics(), run.read_history(), read_evaluation(run)
    labels = [make_printable(label) for label in run.record.classes]
    targets, probabilities = run.read_probabilities()
    bins = [ReliabilityBin(**found) for found in evaluation["reliability"]]
    return {
        "warnings": words.list_warnings(metrics, evaluation),
        "summary": words.summarize(metrics, evaluation),
        "evaluation": _make_plain(evaluation),
        "test": _make_plain(metrics["test"]) if "test" in metrics else None,
        "curves": draw_gap(history, metrics["kept_epoch"], metrics["train_accuracy"], metrics["train_loss"]),
        "curves_text": words.describe_curves(metrics, history),
        "areas": draw_areas(targets, probabilities, labels),
        "areas_text": words.describe_areas(evaluation, labels),
        "reliability": draw_reliability(bins, f"of {labels[1]}" if len(labels) == 2 else "of the label"),
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
    hash_of = {example.path: example.content_hash for example in (*split.validation, *split.train)}
    paths = {found.path for found in (*worst, *unsure)} | {example.path for pair in near for example in pair[:2]}
    thumbnails = _draw_thumbnails(sources.images, {path: hash_of[path] for path in sorted(paths)})
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
        "similarity": pair.similarity,
        "is_near": pair.similarity >= NEAR,
        "left": thumbnails.get(pair.held_out.path),
        "right": thumbnails.get(pair.train.path),
    }


def _make_plain(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Gives an evaluation whose class names can be shown."""
    classes: Sequence[Mapping[str, Any]] = evaluation["classes"]
    plain = [{**found, "label": make_printable(found["label"])} for found in classes]
    return {**evaluation, "largest_class": make_printable(evaluation["largest_class"]), "classes": plain}
