"""The final number: what a run's head says of the pictures in test/."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from base.errors import HeadstartError, UsageError
from base.files import write_durably
from base.terminal import Console
from train_head.config import NOTHING
from train_head.data.batches import Array, number_targets
from train_head.evaluation.evaluate import evaluate
from train_head.evaluation.metrics import find_largest_class
from train_head.report.page import render_report
from train_head.report.sources import Sources
from train_head.runs.expand import compute_store_logits, expand_head
from train_head.runs.read import Run
from train_head.runs.record import REPORT_FILE, read_record
from train_head.runs.write import rewrite_run, seal_run, write_metrics
from train_head.solvers.network import compute_probabilities

BATCH_SIZE = 256


def score_test(sources: Sources, console: Console, weights: str = "") -> Sources:
    """Evaluate a run's head on the pictures in test/, and keep that as `test` with its metrics and in its report.

    Metrics and report appear together: no report is older than its metrics.

    Args:
        sources: the run, and what it was fitted on.
        console: shows progress.
        weights: a weights file for layers that were trained again, or empty for the one that the store names.

    Returns:
        The sources, with the run as it is now.

    Raises:
        UsageError: there are none beside validation/.
        HeadstartError: a class in test/ was not trained on, or the head cannot be led back to all inputs.
    """
    run, store, split = sources.run, sources.store, sources.split
    if not split.test:
        raise UsageError(
            "--test", "pictures in test/ beside validation/", f"none in {store.path}", "Add some, and extract again"
        )
    if strangers := sorted({example.label for example in split.test} - set(split.classes)):
        raise HeadstartError(
            f"class {strangers[0]!r} in test/", "one that was trained on", "another", "Remove it, and extract again"
        )
    probabilities = _predict_test(sources, console, weights)
    largest = find_largest_class(number_targets(split.train, split.classes), len(split.classes))
    evaluation = evaluate(number_targets(split.test, split.classes), probabilities, split.classes, largest)
    metrics = {**run.read_metrics(), "test": asdict(evaluation)}
    with rewrite_run(run) as folder:
        write_metrics(folder, metrics)
        seal_run(folder, read_record(folder))
        page = render_report(replace(sources, run=Run(folder)), run.folder, console)
        write_durably(folder / REPORT_FILE, page)
    return replace(sources, run=Run(run.folder))


def _predict_test(sources: Sources, console: Console, weights: str) -> Array:
    run, store, split = sources.run, sources.store, sources.split
    if run.unfreeze_from == NOTHING:
        head = expand_head(run, store, split.validation, console)
        return compute_probabilities(compute_store_logits(head, store, split.test))
    from train_head.export.rebuild import rebuild_parts

    rebuilt = rebuild_parts(run, store, split, weights, console)
    chunks = [split.test[start : start + BATCH_SIZE] for start in range(0, len(split.test), BATCH_SIZE)]
    logits = [rebuilt.compute_logits(store.read(chunk).astype(np.float32)) for chunk in chunks]
    return compute_probabilities(np.concatenate(logits))
