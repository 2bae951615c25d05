"""Confidence intervals of accuracies, also for heads that were selected on the pictures they are evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import ceil, floor, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

from base.terminal import format_count
from train_head.config import NO_FINE_TUNING, HeadConfig

CONFIDENCE = 0.95
KINDS_OF_FITS = ("repeats", "folds")
"""Metrics of several fits, by the option that asks for them."""


class Interval(NamedTuple):
    """Confidence interval of an accuracy."""

    low: float
    high: float

    def format(self) -> str:
        """Format as `0.8012 to 0.9120`, rounded outwards."""
        return f"{floor(self.low * 1e4 + 1e-9) / 1e4:.4f} to {ceil(self.high * 1e4 - 1e-9) / 1e4:.4f}"

    def format_percent(self) -> str:
        """Format as `80.12% to 91.20%`, with the digits of `format`."""
        return f"{floor(self.low * 1e4 + 1e-9) / 100:.2f}% to {ceil(self.high * 1e4 - 1e-9) / 100:.2f}%"


@dataclass(frozen=True)
class Selection:
    """Numbers of heads and epochs from which a head was selected, on the pictures that it is evaluated on."""

    num_heads: int = 1
    num_epochs: int = 1
    """Number of planned epochs of a head, any of which could have been kept."""
    metric: str = ""
    num_possible: int = 0
    """Number of heads that an adaptive search could have tried; 0 if the heads were fixed beforehand."""

    @classmethod
    def read(cls, metrics: Mapping[str, Any]) -> Selection:
        """Read the selection from a run's metrics; without one, the head was not selected."""
        return cls(**(metrics.get("selection") or {}))

    @classmethod
    def of_epochs(cls, config: HeadConfig) -> Selection:
        """Return the selection within one training: with patience, it keeps the epoch of the lowest validation loss."""
        if not config.patience:
            return cls()
        tuned = config.fine_tune_epochs if config.unfreeze_from != NO_FINE_TUNING else 0
        return cls(num_epochs=config.epochs + tuned, metric="val_loss")

    @property
    def num_candidates(self) -> int:
        """Number of candidates: heads times epochs."""
        return max(1, self.num_heads, self.num_possible) * max(1, self.num_epochs)

    def describe(self) -> str:
        """Describe the selection, such as `the best of 24 heads`; empty if there was none."""
        epoch = f"the best of up to {self.num_epochs:,} epochs" if self.num_epochs > 1 else ""
        if max(self.num_heads, self.num_possible) <= 1:
            return epoch
        space = f" (from a search space of {self.num_possible:,})" if self.num_possible > 1 else ""
        return f"the best of {self.num_heads:,} heads{space}" + (f", each at {epoch}" if epoch else "")


def record_selection(metrics: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """Return a run's metrics with the selection recorded and the intervals widened for it."""
    right, num = round(metrics["val_accuracy"] * metrics["num_validation"]), metrics["num_validation"]
    interval = list(compute_interval(right, num, selection.num_candidates))
    recorded = asdict(selection) if selection.num_candidates > 1 else None
    changed = {**metrics, "val_accuracy_interval": interval, "selection": recorded}
    widened = {"accuracy_interval": interval} | widen_mean_interval(metrics, selection.num_candidates)
    changed |= {name: value for name, value in widened.items() if name in metrics}
    if metrics.get("evaluation"):
        changed["evaluation"] = {**metrics["evaluation"], **widened}
    return changed


def widen_mean_interval(metrics: Mapping[str, Any], num_candidates: int) -> dict[str, Any]:
    """Return the interval of a mean average precision, widened for a selection; empty if the metrics have none."""
    if "mean_average_precision" not in metrics:
        return {}
    mean, error = metrics["mean_average_precision"], metrics["mean_average_precision_error"]
    return {"mean_average_precision_interval": compute_normal_interval(mean, error, num_candidates)}


def compute_normal_interval(mean: float | None, error: float | None, num_candidates: int = 1) -> list[float] | None:
    """Compute a 95% interval of a mean of shares from its standard error; None without a mean.

    For one of several candidates selected on the same pictures, it has Bonferroni's correction, as `compute_interval`
    has.
    """
    if mean is None or error is None:
        return None
    half = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / num_candidates / 2) * error
    return [max(0.0, mean - half), min(1.0, mean + half)]


def compute_interval(num_right: float, num_pictures: int, num_candidates: int = 1) -> Interval:
    """Compute a 95% confidence interval of an accuracy.

    For a single candidate it is Wilson's interval (Wilson 1927). For one of k candidates selected on the same pictures
    it is the Clopper-Pearson interval (1934) at the level 1 - 0.05 / k. By Bonferroni's inequality, all k intervals
    contain their true values with a probability of at least 95%. The interval of the selected candidate therefore does
    so too, whatever the selection rule.

    Args:
        num_right: number of correct predictions; may be a fraction, for the mean of several fits.
        num_pictures: number of predictions.
        num_candidates: k, heads times epochs.
    """
    if num_candidates == 1:
        z, share = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), num_right / num_pictures
        centre, scale = share + z * z / (2 * num_pictures), 1 + z * z / num_pictures
        half = z * sqrt(share * (1 - share) / num_pictures + (z / num_pictures) ** 2 / 4)
        return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))
    from scipy.special import betaincinv

    chance = (1 - CONFIDENCE) / num_candidates / 2
    # Rounding outwards keeps the interval conservative for a fraction.
    right, wrong = floor(num_right + 1e-6), num_pictures - ceil(num_right - 1e-6)
    low = float(betaincinv(right, num_pictures - right + 1, chance)) if right else 0.0
    return Interval(low, 1 - float(betaincinv(wrong, num_pictures - wrong + 1, chance)) if wrong else 1.0)


def format_share(share: float | None) -> str:
    """Format with four decimal places; only exactly 0 and 1 are shown as 0.0000 and 1.0000."""
    if share is None:
        return "–"
    if 0 < share < 0.00005:
        return "<0.0001"
    return ">0.9999" if 0.99995 <= share < 1 else f"{share:.4f}"


def format_percent(share: float) -> str:
    """Format as a percentage with one decimal place; only exactly 0 and 1 are written as 0% and 100%."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def name_accuracy(*, is_multi_label: bool) -> str:
    """Return the name of the accuracy; with several labels a picture, all of its labels must be correct."""
    return "exact-match accuracy" if is_multi_label else "accuracy"


def describe_accuracy(metrics: Mapping[str, Any]) -> str:
    """Describe a run's validation accuracy and its baseline."""
    baseline = format_share(metrics["largest_class_share"])
    largest = "the most frequent labels" if metrics.get("is_multi_label") else "the largest training class"
    return f"{format_share(metrics['val_accuracy'])} (always predicting {largest}: {baseline})"


def describe_results(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Describe a run's results on its validation pictures, each with a title.

    With several labels a picture, they start with the mean average precision and the F1.
    """
    is_multi_label = bool(metrics.get("is_multi_label"))
    rows = [
        (f"validation {name_accuracy(is_multi_label=is_multi_label)}", describe_accuracy(metrics)),
        ("95% confidence interval", describe_interval(metrics)),
    ]
    if not is_multi_label:
        return rows
    interval = metrics["mean_average_precision_interval"]
    shown = f" (95% confidence interval {Interval(*interval).format()})" if interval else ""
    f1 = f"{format_share(metrics['micro_f1'])} over all labels, {format_share(metrics['macro_f1'])} mean of the labels"
    return [
        ("validation mean average precision", format_share(metrics["mean_average_precision"]) + shown),
        ("validation F1", f1),
        *rows,
    ]


def describe_interval(metrics: Mapping[str, Any]) -> str:
    """Describe the interval of a run's validation accuracy and the selection that it accounts for."""
    selection, num = Selection.read(metrics), metrics["num_validation"]
    interval = compute_interval(metrics["val_accuracy"] * num, num, selection.num_candidates).format()
    choice = selection.describe()
    return f"{interval}, allowing for the selection of {choice}, on these pictures" if choice else interval


def describe_all_fits(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Describe the accuracies of repeats and of folds, each with a title such as `5 folds`; empty for one fit."""
    kinds = [kind for kind in KINDS_OF_FITS if metrics.get(kind)]
    return [(f"{len(metrics[kind]['val_accuracies'])} {kind}", describe_fits(kind, metrics)) for kind in kinds]


def describe_fits(kind: str, metrics: Mapping[str, Any]) -> str:
    """Describe the accuracies of `repeats` or `folds`: mean, standard deviation, numbers of training pictures."""
    summary = metrics[kind]
    num, asked = len(summary["val_accuracies"]), summary.get("num_planned", 0)
    count = f"{num} of {asked}" if num < asked else str(num)
    what = f"{count} seeds, same pictures" if kind == "repeats" else f"{count} folds"
    name = "exact-match accuracy " if metrics.get("is_multi_label") else ""
    words = f"{name}{summary['mean']:.4f} ± {summary['std']:.4f} (mean and standard deviation over {what}"
    sizes = summary.get("num_train") or []
    if kind == "folds" and sizes:
        least, most = min(sizes), max(sizes)
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        words += f", each trained on {each} pictures"
        if most < metrics["num_train"]:
            words += f" instead of the {metrics['num_train']:,} of this head, which lowers the accuracy"
    if Selection.read(metrics).num_epochs > 1:
        words += (
            "; the epoch of each fit was selected on the pictures that it is evaluated on, "
            "so the mean is optimistically biased"
        )
    return f"{words})"


NUMBER_FILTERS: Mapping[str, Callable[..., str]] = {
    "commas": lambda number: f"{number:,}",
    "interval_percent": lambda ends: Interval(*ends).format_percent(),
    "percent": format_percent,
    "share": format_share,
    "with_noun": format_count,
}
"""Filters for numbers in the templates of the report and of the model card."""
