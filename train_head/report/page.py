"""Report of a run: numbers, plots and pictures in one HTML page that needs nothing else."""

from __future__ import annotations

import html
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from base.errors import HeadstartError
from base.files import hash_file, write_durably
from base.terminal import Console
from train_head.config import ReportConfig, TrainConfig
from train_head.evaluation.uncertainty import Selection
from train_head.report.figures import choose_drawn, draw_areas, draw_gap, draw_reliability
from train_head.report.gallery import (
    NEAR,
    NUM_NEAR_SHOWN,
    choose_unsure,
    choose_worst,
    draw_thumbnail,
    find_exact,
    find_nearest,
    load_means,
    measure_likeness,
)
from train_head.report.sources import Sources, evaluate_test, load_sources, read_evaluation, read_test
from train_head.report.template import describe_sources, make_environment
from train_head.runs.read import Run
from train_head.runs.record import METRICS_FILE, REPORT_FILE, read_record
from train_head.runs.write import rewrite_run, warn_on_failure, write_metrics, write_page, write_record

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Report:
    """A run's report, which a notebook shows as it is."""

    path: Path

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe sandbox srcdoc="{page}" style="width: 100%; height: 50rem; border: 0"></iframe>'


def report_run(config: ReportConfig, console: Console) -> Path:
    """Write a run's report.html; with `config.test` also the final number, into its metrics and the report.

    Metrics and report appear together: no report is older than its metrics.

    Returns:
        The page's path.

    Raises:
        UsageError: there are no pictures in test/.
        HeadstartError: the run or the store cannot be read, or another command writes the run.
        OSError: the page cannot be written.
    """
    sources = load_sources(config)
    if not config.test:
        return write_report(sources, console)
    metrics = {**sources.run.read_metrics(), "test": evaluate_test(sources, console, config.weights)}
    with rewrite_run(sources.run) as folder:
        write_metrics(folder, metrics)
        write_record(folder, read_record(folder))
        write_durably(folder / REPORT_FILE, render_report(replace(sources, run=Run(folder)), console))
    return config.run / REPORT_FILE


def report_fitted_run(config: TrainConfig, console: Console) -> Path | None:
    """Write the report of a run that was just fitted, where one is wanted and none is made from its metrics yet.

    A failure is a warning, and costs the report alone.
    """
    path = config.run / REPORT_FILE
    if config.no_report:
        return None
    with warn_on_failure(str(path), console):
        digest = hash_file(config.run / METRICS_FILE)
        if path.is_file() and digest in path.read_text(encoding="utf-8", errors="replace"):
            return path
        return report_run(ReportConfig(config.run), console)
    return None


def write_report(sources: Sources, console: Console) -> Path:
    """Write a run's report.html, and return its path; raises as `report_run` does."""
    return write_page(sources.run, render_report(sources, console))


def render_report(sources: Sources, console: Console) -> bytes:
    """Return a run's report as HTML in UTF-8.

    Raises:
        HeadstartError: the run or the store cannot be read, or its metrics hold something else than a run's.
    """
    from jinja2 import UndefinedError

    started = time.monotonic()
    template, pictures = make_environment().get_template(TEMPLATE), _choose_pictures(sources, console)
    try:
        values = {**describe_sources(sources), **pictures, **_draw_numbers(sources.run)}
        page = template.render(values, **vars(sources), page_seconds=time.monotonic() - started)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UndefinedError) as error:
        # The other files are parsed when they are read; metrics of version 1 have no digest either.
        path, advice = sources.run.folder / METRICS_FILE, "Train again with --overwrite"
        raise HeadstartError(path, "metrics to report", f"{type(error).__name__}: {error}", advice) from error
    # A lone surrogate that no caller made printable costs a character, not the report.
    return page.encode("utf-8", "backslashreplace")


def _draw_numbers(run: Run) -> dict[str, Any]:
    metrics, history, classes = run.read_metrics(), run.read_history(), run.record.classes
    if not 1 <= metrics["kept_epoch"] <= len(history):
        raise ValueError(f"kept_epoch is {metrics['kept_epoch']} of {len(history)} epochs")
    evaluation, selection = read_evaluation(run), Selection.read(metrics)
    targets, probabilities = run.read_probabilities()
    drawn = choose_drawn(targets, len(classes))
    return {
        "metrics": metrics,
        "metrics_sha256": hash_file(run.folder / METRICS_FILE),
        "history": history,
        "evaluation": evaluation,
        "test": read_test(run),
        "choice": selection.describe(),
        "num_candidates": selection.num_candidates,
        "drawn": drawn,
        "curves": draw_gap(history, metrics["kept_epoch"], metrics["train_accuracy"], metrics["train_loss"]),
        "areas": draw_areas(targets, probabilities, classes, drawn),
        "reliability": draw_reliability(evaluation["reliability"], classes),
    }


def _choose_pictures(sources: Sources, console: Console) -> dict[str, Any]:
    """Choose the pictures to show, and draw their thumbnails."""
    split, predictions = sources.split, sources.run.read_predictions()
    worst, unsure = choose_worst(predictions), choose_unsure(predictions)
    means = load_means(sources.store, split, console)
    nearest = find_nearest(split, means) if means else []
    num_near = sum(pair.similarity >= NEAR for pair in nearest)
    near = nearest[: max(NUM_NEAR_SHOWN, min(2 * NUM_NEAR_SHOWN, num_near))]
    hash_of = {example.path: bytes.fromhex(example.content_hash) for example in sources.run.read_examples()}
    hash_of |= {example.path: example.content_hash for example in (*split.validation, *split.train)}
    paths = {found.path for found in (*worst, *unsure)} | {example.path for pair in near for example in pair[:2]}
    with ThreadPoolExecutor() as pool:
        drawn = pool.map(lambda path: draw_thumbnail(sources.images / path, hash_of.get(path, b"")), paths)
        thumbnails = dict(zip(paths, drawn, strict=True))
    return {
        "worst": worst,
        "num_wrong": sum(found.predicted != found.label for found in predictions),
        "unsure": unsure,
        "exact": find_exact(split.train, [*split.validation, *split.test]),
        "near": near,
        "num_near": num_near if means else None,
        "likeness": measure_likeness(means) if means else 0.0,
        "thumbnails": thumbnails,
    }
