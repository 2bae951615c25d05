"""What a report says in words: title, summary, warnings, descriptions of the plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import Any

from base.terminal import make_printable
from train_head.evaluation.evaluate import NUM_THRESHOLDS, THRESHOLD_DIGITS
from train_head.evaluation.uncertainty import (
    Interval,
    Selection,
    compute_interval,
    describe_fits,
    format_percent,
    format_share,
)
from train_head.report.duplicates import MAX_PICTURES, NEAR
from train_head.runs.tables import Prediction
from train_head.solvers.history import Epoch

MAX_TITLE = 5
"""Classes in the title."""
KEPT_TRIAL = "repeat 0"
"""The fit whose head a run keeps."""


def describe_title(classes: Sequence[str]) -> str:
    """Return the page's title: the classes, the first of many."""
    shown = [make_printable(label) for label in classes[:MAX_TITLE]]
    if len(classes) > MAX_TITLE:
        return f"{', '.join(shown)} and {len(classes) - MAX_TITLE:,} more classes"
    return " or ".join(shown)


def summarize(metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Summarize in a few sentences how good the head is."""
    num, right = evaluation["num_pictures"], sum(row[n] for n, row in enumerate(evaluation["confusion"]))
    choice = Selection.read(metrics).describe()
    words = [
        f"{right:,} of {num:,} validation pictures classified correctly ({format_percent(right / num)}).",
        f"On other pictures of the same kind expect {Interval(*evaluation['accuracy_interval']).format_percent()}"
        + (f"; this interval allows for the choice of {choice}." if choice else "."),
    ]
    for kind, name in (("repeats", "With other seeds"), ("folds", "Cross-validated")):
        if metrics.get(kind):
            words.append(f"{name}: {describe_fits(kind, metrics)}.")
    return " ".join(words)


def list_warnings(metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[str]:
    """List what limits the numbers: what happened, what it means for them, and what to do."""
    found = []
    if diverged := metrics.get("diverged"):
        found.append(_describe_divergence(metrics, diverged))
    if choice := Selection.read(metrics).describe():
        found.append(
            f"This is {choice}, chosen by the validation pictures that it is judged by: its validation accuracy is "
            "optimistically biased. The interval allows for the choice. For a number without bias, keep pictures in "
            "test/ that nothing is chosen by (make report TEST=1)."
        )
    (low, high), guess = evaluation["accuracy_interval"], evaluation["largest_class_share"]
    always = f"always predicting {make_printable(evaluation['largest_class'])}, the largest class of training"
    shown = f"({Interval(low, high).format_percent()})"
    if high < guess:
        found.append(
            f"The head is worse than {always}: all of its interval {shown} lies below the {format_percent(guess)} that "
            "this gives. What it learned does not hold for these pictures: check that both sides are labelled alike."
        )
    elif low <= guess:
        found.append(
            f"The head cannot be distinguished from {always}: its interval {shown} contains the "
            f"{format_percent(guess)} that this gives. Validate with more pictures, or train on more."
        )
    if leaks := metrics.get("num_leaked"):
        found.append(
            f"{leaks:,} validation pictures were trained on too, byte for byte: the accuracy is optimistically biased. "
            "Remove one of each pair, extract and train again."
        )
    if pending := metrics.get("num_pending"):
        found.append(
            f"{pending:,} pictures of the folder had no features yet and were left out: the head has not learned from "
            "them. Extract again to go on, and train again."
        )
    return found


def describe_curves(metrics: Mapping[str, Any], history: Sequence[Epoch]) -> str:
    """Says what the learning curves show."""
    kept = history[metrics["kept_epoch"] - 1]
    best = min(history, key=lambda row: row.val_loss)
    shown = [round(accuracy, 4) for accuracy in (metrics["train_accuracy"], kept.val_accuracy)]
    words = (
        f"After epoch {kept.epoch} of {len(history)} training accuracy is {shown[0]:.4f} with dropout "
        f"off, validation accuracy {shown[1]:.4f}: a gap of {shown[0] - shown[1]:.4f}. Loss: "
        f"{metrics['train_loss']:.4f} and {kept.val_loss:.4f}."
    )
    if best.epoch < kept.epoch:
        words += f" Validation loss was lowest in epoch {best.epoch} ({best.val_loss:.4f}): since then it overfits."
    return words


def describe_areas(evaluation: Mapping[str, Any], labels: Sequence[str], drawn: Sequence[int]) -> str:
    """Describe what the ROC and the precision-recall curves show, and of which classes.

    Args:
        evaluation: of the head.
        labels: of the classes.
        drawn: numbers of the classes that are drawn.
    """
    area, precision = format_share(evaluation["roc_auc"]), format_share(evaluation["average_precision"])
    if len(labels) == 2:
        which, areas = f"for predicting {labels[1]}", f" Area {area}, average precision {precision}."
    else:
        with_pictures = sum(found["roc_auc"] is not None for found in evaluation["classes"])
        which = "for each class against the others"
        if len(drawn) < with_pictures:
            which = f"of the {len(drawn)} classes with most validation pictures, of {len(labels):,}"
        elif len(drawn) < len(labels):
            which = f"of the {len(drawn)} classes that have validation pictures, of {len(labels):,}"
        areas = f" Mean of all classes: area {area}, average precision {precision}."
    if evaluation["roc_auc"] is None:
        areas = ""
    return f"ROC and precision against recall {which}, over all thresholds.{areas}"


def describe_reliability(evaluation: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Describe what the reliability diagram shows."""
    if len(labels) == 2:
        what = f"of the pictures to which the head gives a probability of {labels[1]}, the share that is {labels[1]}"
        sides = f"Above the line {labels[1]} is more frequent than predicted, below it less"
    else:
        what = "of the pictures whose predicted class has a probability, the share that is classified correctly"
        sides = "Above the line the head is under-confident, below it over-confident"
    return (
        f"Calibration: {what}. {sides}. Expected calibration error {format_share(evaluation['calibration_error'])}, "
        f"Brier score {format_share(evaluation['brier'])}, log loss {evaluation['log_loss']:.4f}."
    )


def list_thresholds(evaluation: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """List the thresholds of each class, with intervals that allow for their choice from all of four digits.

    Returns:
        Rows of class, purpose, threshold, precision, its interval, recall, its interval and F1.
    """
    num_candidates = NUM_THRESHOLDS * Selection.read(metrics).num_candidates
    rows: list[tuple[str, ...]] = []
    for found in evaluation["classes"]:
        for choice in found["thresholds"]:
            num = found["num_pictures"]
            right = round(choice["recall"] * num)
            predicted = max(round(right / choice["precision"]), 1) if choice["precision"] else 1
            rows.append(
                (
                    make_printable(found["label"]),
                    choice["wanted"],
                    f"{choice['threshold']:.{THRESHOLD_DIGITS}f}",
                    format_share(choice["precision"]),
                    compute_interval(right, predicted, num_candidates).format(),
                    format_share(choice["recall"]),
                    compute_interval(right, num, num_candidates).format(),
                    format_share(choice["f1"]),
                )
            )
    return rows


def count_wrong(predictions: Sequence[Prediction], num_shown: int) -> str:
    """Describe how many pictures were classified incorrectly."""
    num_wrong = sum(found.predicted != found.label for found in predictions)
    rest = f"; the {num_shown} whose true class has the lowest probability" if num_wrong > num_shown else ""
    return f"{num_wrong:,} of {len(predictions):,} were classified incorrectly{rest}:"


def count_exact(num_exact: int, num_shown: int) -> str:
    """Says how many held-out pictures were trained on too, byte for byte."""
    if not num_exact:
        return "No held-out picture was trained on too, byte for byte."
    found = f"{num_exact:,} held-out pictures were" if num_exact > 1 else "1 held-out picture was"
    shown = f"; the first {num_shown}" if num_exact > num_shown else ""
    return f"{found} trained on too, byte for byte, which makes the accuracy too high{shown}:"


def count_near(num_near: int | None, likeness: float) -> str:
    """Says how many validation pictures are nearly the same as one that was trained on.

    Args:
        num_near: how many; None where nobody looked.
        likeness: how alike training pictures are to each other.
    """
    if num_near is None:
        return f"Pictures that are nearly the same were not looked for: there are more than {MAX_PICTURES:,}."
    found = f"{num_near:,} validation pictures are" if num_near > 1 else "1 validation picture is"
    words = (
        f"{found if num_near else 'No validation picture is'} nearly the same as one that was trained on, going by "
        f"features (similarity {NEAR} or more: saved again, cut, brightened, mirrored). For comparison: the median "
        f"similarity of a training picture to the nearest other is {format_similarity(likeness, 2)}"
    )
    if likeness >= NEAR:
        words += ", so all pictures of this kind are alike, and copies can only be recognised by looking at the pairs"
    return f"{words}. The pairs that are most alike:"


def format_similarity(similarity: float, digits: int = 3) -> str:
    """Format a similarity, rounded down, so that what is below the limit of near ones is never shown as on it."""
    return f"{floor(similarity * 10**digits + 1e-9) / 10**digits:.{digits}f}"


def _describe_divergence(metrics: Mapping[str, Any], diverged: Mapping[str, Any]) -> str:
    happened = f"The loss of {diverged['trial']} became {diverged['losses']} in epoch {diverged['epoch']}"
    option = "--fine-tune-learning-rate" if metrics.get("before_tuning") else "--learning-rate"
    if diverged["trial"] == KEPT_TRIAL:
        return (
            f"{happened}, and its training ended there: this head is that of epoch {metrics['kept_epoch']}. "
            f"Try a smaller {option}."
        )
    return (
        f"{happened}, and no other was fitted after it: means and standard deviations are of the fits before. This "
        f"head, of {KEPT_TRIAL}, is not affected. Try a smaller {option}."
    )
