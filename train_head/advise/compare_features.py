"""Comparison of settings by the leave-one-out accuracy of a head on the same pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from base.errors import HeadstartError
from base.terminal import Console, format_count, format_list
from features.store import Example
from features.validation_split import encode_labels, sort_examples
from train_head.advise.measure import classify_left_out, measure_parts, read_inputs
from train_head.advise.settings import Setting, fits
from train_head.advise.statistics import (
    Correct,
    Difference,
    LearningCurve,
    compare_paired,
    count_detectable,
    extrapolate_curve,
)
from train_head.evaluation.uncertainty import Interval, compute_interval
from train_head.reduction.matrix import open_workers

MAX_PICTURES = 2000
"""Largest number of pictures that settings are compared on; of more, those with the lowest content hashes."""


@dataclass(frozen=True)
class Row:
    """Result of one setting."""

    setting: Setting
    accuracy: float
    """Share of the pictures that a head classifies correctly if it is fitted to all others."""
    interval: Interval
    correct: Correct
    """Whether each picture is classified correctly."""
    seconds: float
    """Time to read the features and to fit a head, in seconds."""
    difference: Difference | None
    """Difference from the first setting; None for the first."""


@dataclass(frozen=True)
class Comparison:
    """Settings compared on the same pictures. The first row is the setting that the others are compared with."""

    title: str
    rows: list[Row]
    num_pictures: int
    num_classes: int
    largest_class_share: float
    num_alone: int
    """Number of classes with one picture, which no head can classify correctly if it is left out."""
    curve: LearningCurve | None
    """Learning curve of the best setting; None if there are too few pictures."""

    @property
    def best(self) -> Row:
        """Row of the recommended setting: the first one that is significantly better than the first row.

        Of several, it is the first one that the most accurate of them does not significantly exceed.
        """
        better = [row for row in self.rows if row.difference and row.difference.is_better]
        highest = max(better, key=lambda row: row.accuracy, default=self.rows[0])
        equal = (row for row in better if not compare_paired(row.correct, highest.correct).is_better)
        return next(equal, self.rows[0])

    @property
    def detectable(self) -> float | None:
        """Smallest gain in accuracy that can be significant; None if there are too few pictures for any."""
        count = count_detectable(max(1, len(self.rows) - 1))
        return count / self.num_pictures if count <= self.num_pictures else None


def compare_settings(
    title: str, settings: Sequence[Setting], seed: int, console: Console, *, is_sample: bool = False
) -> Comparison:
    """Measure the leave-one-out accuracy of settings on the pictures that all of them have.

    Args:
        title: title of the comparison.
        settings: the settings; the first one is compared with each of the others.
        seed: seed of the intervals of the learning curve.
        console: prints progress and messages.
        is_sample: whether the stores have only pictures that were chosen for a comparison.

    Raises:
        HeadstartError: there are fewer than two classes to train on.
    """
    examples = choose_examples(settings, takes_all=is_sample)
    classes = sorted({example.label for example in examples})
    if len(classes) < 2:
        got = f"{format_count(len(examples), 'different picture')} of {format_count(len(classes), 'class', 'classes')}"
        advice = "Add different pictures of another class, and extract again"
        raise HeadstartError(settings[0].stores[0].path, "training pictures of two classes", got, advice)
    numbers, hashes = encode_labels(examples, classes), [example.content_hash for example in examples]
    measured = [setting for setting in settings if fits(setting, len(hashes))]
    if skipped := [setting.name for setting in settings if setting not in measured]:
        console.info(f"not compared, because their features are too large: {format_list(skipped)}")
    results, seconds = list[Correct](), list[float]()
    with open_workers() as workers, console.progress("compare", len(measured) + 1, "settings") as progress:
        for setting in measured:
            started = time.monotonic()
            results.append(classify_left_out(read_inputs(setting.stores, hashes, workers), numbers, len(classes)))
            seconds.append(time.monotonic() - started)
            progress.advance(1, setting.name)
        comparison = Comparison(
            title,
            _make_rows(measured, results, seconds),
            len(hashes),
            len(classes),
            float(np.bincount(numbers).max() / len(numbers)),
            int(np.sum(np.bincount(numbers) == 1)),
            None,
        )
        best = comparison.best
        inputs = read_inputs(best.setting.stores, hashes, workers)
        sizes, parts = measure_parts(inputs, numbers, len(classes), best.correct)
        progress.advance(1)
    curve = extrapolate_curve(sizes, parts, seed) if len(sizes) > 1 else None
    return Comparison(**{**vars(comparison), "curve": curve})


def choose_examples(settings: Sequence[Setting], *, takes_all: bool = False) -> list[Example]:
    """Choose the training pictures that all settings have, in the order of their content hashes; one of each copy.

    Pictures that training sets aside for validation are left out, so that they do not influence a choice.

    Args:
        settings: the settings.
        takes_all: whether to take all pictures of the stores.
    """
    store = settings[0].stores[0]
    trained = store.examples if takes_all else store.select_train()
    common = set.intersection(*(setting.list_hashes() for setting in settings))
    by_hash = {example.content_hash: example for example in reversed(trained) if example.content_hash in common}
    return sort_examples(by_hash.values())[:MAX_PICTURES]


def _make_rows(settings: Sequence[Setting], results: Sequence[Correct], seconds: Sequence[float]) -> list[Row]:
    rows, num_comparisons = list[Row](), max(1, len(settings) - 1)
    for setting, correct, duration in zip(settings, results, seconds, strict=True):
        num_right = int(np.sum(correct))
        difference = compare_paired(results[0], correct, num_comparisons) if rows else None
        interval = compute_interval(num_right, len(correct))
        rows.append(Row(setting, num_right / len(correct), interval, correct, round(duration, 3), difference))
    return rows
