"""Report of a run: numbers, plots and pictures in one self-contained HTML page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from base.errors import HeadstartError
from base.files import hash_file, write_durably
from base.terminal import Console
from extract.decoding.decode import DEFAULT_POLICY
from extract.decoding.policy import find_policy
from train_head.config import ReportConfig, SolverName, TrainConfig
from train_head.evaluation.confusion import read_cells
from train_head.report.classes import choose_worst, has_many_classes, list_class_rows, list_label_rows
from train_head.report.data import collect_report, encode_data
from train_head.report.duplicates import warn_of_duplicates
from train_head.report.figures import (
    SERIES,
    choose_plotted,
    encode_svg,
    plot_distances,
    plot_learning_curve,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
)
from train_head.report.gallery import (
    EXAMPLE_SIDE,
    NUM_WRONG_SHOWN,
    NUM_WRONG_SHOWN_OF_MANY,
    THUMBNAIL_SIDE,
    Thumbnail,
    make_thumbnail,
)
from train_head.report.heatmap import plot_confusion
from train_head.report.labels import NUM_ISSUES_SHOWN, compare_pictures, list_shown, log_label_issues
from train_head.report.sources import Sources, evaluate_test, load_sources
from train_head.report.template import describe_sources, embed_page, make_environment
from train_head.runs.label_table import format_label_issues
from train_head.runs.read import Run
from train_head.runs.record import LABEL_ISSUES_FILE, METRICS_FILE, REPORT_FILE, read_record
from train_head.runs.write import (
    require_writable,
    rewrite_run,
    warn_on_failure,
    write_metrics,
    write_page,
    write_record,
)

TEMPLATE, LABELS_TEMPLATE = "page.html.jinja", "labels.html.jinja"


@dataclass(frozen=True)
class Report:
    """A run's report; a notebook displays it."""

    path: Path

    def _repr_html_(self) -> str:
        return embed_page(self.path)


def report_run(config: ReportConfig, console: Console) -> Path:
    """Write a run's report.html; with `config.test`, evaluate the pictures in test/ first.

    New metrics and their report replace the old ones together.

    Returns:
        Path of the report.

    Raises:
        UsageError: test/ has no pictures.
        HeadstartError: the run or the store cannot be read, or another command writes the run.
        OSError: the page cannot be written.
    """
    sources = load_sources(config)
    require_writable(sources.run)
    if not config.test:
        return write_report(sources, console)
    metrics = {**sources.run.read_metrics(), "test": evaluate_test(sources, console, config.weights)}
    with rewrite_run(sources.run) as folder:
        write_metrics(folder, metrics)
        write_record(folder, read_record(folder))
        page, label_issues = render_report(replace(sources, run=Run(folder)), console)
        write_durably(folder / REPORT_FILE, page)
        write_durably(folder / LABEL_ISSUES_FILE, label_issues)
    return config.run / REPORT_FILE


def report_fitted_run(config: TrainConfig, console: Console) -> Path | None:
    """Write the report of a new run, unless the options turn it off or a report of the same metrics exists.

    A failure is logged as a warning; the run itself is kept.
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
    """Write a run's report.html, and return its path; raise as `report_run` does."""
    return write_page(sources.run, *render_report(sources, console))


def render_report(sources: Sources, console: Console) -> tuple[bytes, bytes]:
    """Return a run's report as HTML in UTF-8, and its table of labels to check.

    Raises:
        HeadstartError: the run or the store cannot be read, or the metrics have invalid fields.
    """
    from jinja2 import UndefinedError

    started = time.monotonic()
    template = make_environment().get_template(LABELS_TEMPLATE if sources.run.is_multi_label else TEMPLATE)
    comparison = compare_pictures(sources, console)
    warn_of_duplicates(comparison.duplicates.num_near, sources.split.rule, console)
    log_label_issues(len(comparison.labels.issues), console)
    try:
        data = collect_report(sources, comparison)
        num_wrong_shown = NUM_WRONG_SHOWN_OF_MANY if has_many_classes(data["validation"]) else NUM_WRONG_SHOWN
        page = template.render(
            data,
            **describe_sources(sources),
            **_plot_figures(sources.run, data),
            thumbnails=_make_thumbnails(sources, data, num_wrong_shown),
            num_wrong_shown=num_wrong_shown,
            num_issues_shown=NUM_ISSUES_SHOWN,
            data_json=encode_data(data),
            split=sources.split,
            record=sources.run.record,
            unfreeze_from=sources.run.unfreeze_from,
            weak_weights=sources.run.weak_weights,
            page_seconds=time.monotonic() - started,
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UndefinedError) as error:
        # Only the metrics can have invalid fields: the other files are parsed when they are read.
        path, advice = sources.run.folder / METRICS_FILE, "Train again with --overwrite"
        raise HeadstartError(path, "the metrics of a run", f"{type(error).__name__}: {error}", advice) from error
    # A lone surrogate that was not made printable is escaped.
    return page.encode("utf-8", "backslashreplace"), format_label_issues(comparison.labels.issues)


def _plot_figures(run: Run, data: Mapping[str, Any]) -> dict[str, Any]:
    """Plot the report's figures as SVG, and choose the classes whose curves and thresholds are shown."""
    metrics, history, classes = data["metrics"], run.read_history(), run.classes
    targets, probabilities = run.read_probabilities()
    evaluations = {name: data[name] for name in ("validation", "test") if data[name]}
    is_many = has_many_classes(data["validation"])
    plotted = choose_worst(data["validation"], len(SERIES)) if is_many else choose_plotted(targets, len(classes))
    curves = (targets, probabilities, classes, plotted)
    # A learning curve needs epochs.
    figures = {
        name: plot_learning_curve(history, metrics["kept_epoch"], name, metrics[f"train_{name}"])
        for name in ("accuracy", "loss")
        if run.record.solver != SolverName.RIDGE
    }
    figures |= {"roc": plot_roc(*curves), "precision_recall": plot_precision_recall(*curves)}
    figures["reliability"] = plot_reliability(
        data["validation"]["reliability"],
        classes,
        (data["validation"]["before_calibration"] or {}).get("reliability", ()),
        is_multi_label=run.is_multi_label,
    )
    if detector := run.read_outliers():
        figures["distances"] = plot_distances(detector.held_out, detector.validation, detector.threshold)
    if is_many and not run.is_multi_label:
        figures |= {
            f"confusion_{name}": plot_confusion(read_cells(evaluation), classes)
            for name, evaluation in evaluations.items()
        }
    return {
        "plotted": plotted,
        "detailed": choose_worst(data["validation"]) if is_many else range(len(classes)),
        "class_rows": {
            name: list_label_rows(evaluation) if run.is_multi_label else list_class_rows(evaluation)
            for name, evaluation in evaluations.items()
        },
        "figures": {name: encode_svg(figure, name) for name, figure in figures.items()},
    }


def _make_thumbnails(sources: Sources, data: Mapping[str, Any], num_wrong_shown: int) -> dict[str, Thumbnail]:
    """Make the thumbnails of the pictures that the report shows, by path."""
    sides = {error["example"]: EXAMPLE_SIDE for error in data["findings"]["confusions"] if "example" in error}
    shown = [row["path"] for row in (*data["wrong"][:num_wrong_shown], *data["uncertain"])]
    shown += list_shown(data["label_issues"])
    shown += [row["path"] for row in (data["outliers"] or {"most_distant": []})["most_distant"]]
    shown += [pair[side] for pair in data["duplicates"]["near"] for side in ("held_out", "train")]
    sides |= dict.fromkeys(shown, THUMBNAIL_SIDE)
    hash_of = {example.path: bytes.fromhex(example.content_hash) for example in sources.run.read_examples()}
    hash_of |= {example.path: example.content_hash for example in (*sources.split.validation, *sources.split.train)}
    policy = find_policy(sources.store.fingerprint.decode_policy) or DEFAULT_POLICY

    def make(path: str) -> Thumbnail:
        return make_thumbnail(sources.images / path, hash_of.get(path, b""), sources.place, policy, sides[path])

    with ThreadPoolExecutor() as pool:
        return dict(zip(sides, pool.map(make, sides), strict=True))
