"""One line about what to try next after a training, where its numbers give a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from base.invocation import format_command, format_options
from train_head.config import SolverName, TrainConfig
from train_head.report.commands import PATIENCE, suggest_fit_change
from train_head.report.findings import Fit, judge_fit
from train_head.solvers.history import Epoch

FULL_SIZE = 299
"""Picture size at which the ImageNet weights were trained, in pixels."""
MIN_ERRORS = 6
"""Smallest number of validation errors that a better head can reduce significantly: 2 / 2**6 < 0.05."""


def describe_next_step(
    metrics: Mapping[str, Any],
    history: Sequence[Epoch],
    options: Mapping[str, Any],
    config: TrainConfig,
    images: str = "",
) -> str:
    """Describe what to try next for a fitted head, as one line; empty if its numbers give no reason.

    Args:
        metrics: the run's metrics.
        history: its epochs.
        options: its options of training.
        config: options with the paths of the store and of the pictures.
        images: folder of the pictures in the record of the run.
    """
    num_wrong = round((1 - metrics["val_accuracy"]) * metrics["num_validation"])
    if metrics.get("is_multi_label") or num_wrong < MIN_ERRORS:
        return ""
    low, high = metrics["val_accuracy_interval"]
    is_ridge = metrics["solver"] == SolverName.RIDGE
    is_small = metrics.get("image_size", FULL_SIZE) < FULL_SIZE
    parts = []
    if low <= metrics["largest_class_share"]:
        parts.append("the accuracy cannot be distinguished from that of always predicting the largest class")
    elif not is_ridge:
        parts.append(_describe_fit(metrics, history, options, [low, high]))
    if is_small or not is_ridge:
        what = ["larger pictures"] * is_small + ["other layers", "more pictures"]
        places = ["--images", str(config.images or images or "FOLDER")] if is_small else []
        command = format_command("advise", "--store", config.store, *places)
        parts.append(f"`{command}` measures whether {', '.join(what[:-1])} or {what[-1]} would help")
    line = "; ".join(part for part in parts if part)
    return f"next: {line}" if line else ""


def _describe_fit(
    metrics: Mapping[str, Any], history: Sequence[Epoch], options: Mapping[str, Any], interval: list[float]
) -> str:
    """Describe a head that overfits or still improves, and the option to change; empty for a balanced one."""
    accuracy, kept = metrics["val_accuracy"], metrics["kept_epoch"]
    evaluation = {"accuracy": accuracy, "accuracy_interval": interval}
    found = judge_fit(history, kept, metrics["train_accuracy"], evaluation)
    change = suggest_fit_change(found.fit, options)
    words = format_options("train", change)
    if found.fit is Fit.STILL_IMPROVING:
        return f"the validation loss was still decreasing in epoch {kept}: try {words}"
    if found.fit is Fit.OVERFITTING:
        rise = (
            ""
            if options["patience"] or found.lowest_epoch == kept
            else f" or {format_options('train', {'patience': PATIENCE})}"
        )
        return (
            f"the head overfits (accuracy {metrics['train_accuracy']:.4f} on training pictures, {accuracy:.4f} on "
            f"validation pictures): try {words}{rise}"
        )
    return ""
