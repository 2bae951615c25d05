"""What a report says in words: summary, warnings, descriptions of the plots, facts, commands."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from features.catalog import CATALOG_NAME, Catalog
from features.console import format_seconds, make_printable
from features.errors import FeatureStoreError
from features.store import FeatureStore
from train_head.config import NOTHING
from train_head.report.duplicates import MAX_PICTURES, NEAR
from train_head.run import Prediction, Run
from train_head.solvers.history import Epoch
from train_head.split import Split

_HEAD_OPTIONS = ["solver", "rank", "epochs", "batch_size", "units", "dropout", "l2", "optimizer", "learning_rate"]
_HEAD_OPTIONS += ["momentum", "class_weight", "patience", "seed"]
_LIBRARIES = ("numpy", "scikit-learn", "keras")


def summarize(metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Says in a few sentences how good the head is."""
    num, right = evaluation["num_pictures"], sum(row[n] for n, row in enumerate(evaluation["confusion"]))
    low, high = evaluation["accuracy_interval"]
    words = [
        f"Of {num:,} validation pictures it called {right:,} by their name.",
        f"On other pictures of the same kind expect {low:.1%} to {high:.1%}.",
    ]
    for kind in ("repeats", "folds"):
        if found := metrics.get(kind):
            each = f"{len(found['val_accuracies'])} {'seeds' if kind == 'repeats' else 'folds'}"
            words.append(f"Over {each}: {found['mean']:.4f} ± {found['std']:.4f}.")
    return " ".join(words)


def list_warnings(metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[str]:
    """Lists what keeps the numbers from being taken at their word."""
    found = []
    if diverged := metrics.get("diverged"):
        found.append(f"The loss became {diverged['losses']} in epoch {diverged['epoch']}; an earlier epoch is kept.")
    if evaluation["accuracy_interval"][0] <= evaluation["largest_class_share"]:
        found.append("It cannot be told from always naming the largest class: the interval holds what that would give.")
    if leaks := metrics.get("num_leaked"):
        found.append(f"{leaks:,} validation pictures were trained on too, byte for byte: the accuracy is flattered.")
    if pending := metrics.get("num_pending"):
        found.append(f"{pending:,} pictures of the folder had no features yet, and were left out.")
    return found


def describe_curves(metrics: Mapping[str, Any], history: Sequence[Epoch]) -> str:
    """Says what the learning curves show."""
    kept = history[metrics["kept_epoch"] - 1]
    gap = metrics["train_accuracy"] - kept.val_accuracy
    best = min(history, key=lambda row: row.val_loss)
    words = (
        f"After epoch {kept.epoch} of {len(history)} training accuracy is {metrics['train_accuracy']:.4f} with dropout "
        f"off, validation accuracy {kept.val_accuracy:.4f}: a gap of {gap:.4f}. Loss: {metrics['train_loss']:.4f} and "
        f"{kept.val_loss:.4f}."
    )
    if best.epoch < kept.epoch:
        words += f" Validation loss was lowest in epoch {best.epoch} ({best.val_loss:.4f}): since then it overfits."
    return words


def describe_areas(evaluation: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Says what the ROC and the precision-recall curve show."""
    which = f"for calling a picture {labels[1]}" if len(labels) == 2 else "for each class against the others"
    area, precision = evaluation["roc_auc"], evaluation["average_precision"]
    areas = "" if area is None else f" Area {area:.4f}, average precision {precision:.4f}."
    return f"ROC and precision against recall {which}, over all thresholds.{areas}"


def describe_reliability(evaluation: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Says what the reliability diagram shows."""
    what = f"is {labels[1]}" if len(labels) == 2 else "is what it is called"
    return (
        f"How often a picture {what} when the head says so with a probability. Expected calibration error "
        f"{evaluation['calibration_error']:.4f}, Brier score {evaluation['brier']:.4f}. Above the line it is too "
        "timid, below it too sure."
    )


def count_wrong(predictions: Sequence[Prediction], num_shown: int) -> str:
    """Says how many pictures were called something else."""
    num_wrong = sum(found.predicted != found.label for found in predictions)
    rest = f"; the {num_shown} whose true class got the least" if num_wrong > num_shown else ""
    return f"{num_wrong:,} of {len(predictions):,} were called something else{rest}:"


def count_exact(num_exact: int, num_shown: int) -> str:
    """Says how many held-out pictures were trained on too, byte for byte."""
    if not num_exact:
        return "No held-out picture was trained on too, byte for byte."
    found = f"{num_exact:,} held-out pictures were" if num_exact > 1 else "1 held-out picture was"
    shown = f"; the first {num_shown}" if num_exact > num_shown else ""
    return f"{found} trained on too, byte for byte, which flatters the accuracy{shown}:"


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
        f"features (similarity {NEAR} or more: saved again, cut, brightened, mirrored). For comparison: training "
        f"pictures and the nearest other have {likeness:.2f} in the middle"
    )
    if likeness >= NEAR:
        words += ", so pictures of this kind are alike altogether, and only the pairs can tell copies from siblings"
    return f"{words}. The pairs that are most alike:"


def list_facts(run: Run, store: FeatureStore, split: Split) -> list[tuple[str, str]]:
    """Lists what was trained on what."""
    record, fingerprint, origin = run.record, store.fingerprint, store.origin
    weights = f"{origin.weights_name} {origin.weights_file}".strip()
    facts = [
        ("pictures", store.images_folder),
        ("training", _count_labels([example.label for example in split.train])),
        ("validation", f"{_count_labels([example.label for example in split.validation])}, by {record.split_rule}"),
        *([("test", _count_labels([example.label for example in split.test]))] if split.test else []),
        ("backbone", _describe_backbone(run, store)),
        ("weights", f"{weights}, SHA-256 of the tensors {fingerprint.weights_sha256[:16]}…"),
        (
            "picture",
            f"{fingerprint.image_size} x {fingerprint.image_size} px, {fingerprint.resize}, {fingerprint.scale}",
        ),
        ("features", f"{' x '.join(map(str, record.feature_shape))}, {fingerprint.precision}, {fingerprint.engine}"),
        ("views", f"{run.num_views} of each training picture"),
        ("store", f"{record.store}, fingerprint {record.fingerprint[:16]}…"),
        ("head", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in _list_options(run))),
        ("versions", _describe_versions({**origin.versions, **_find_versions()})),
    ]
    return [(name, make_printable(text)) for name, text in facts]


def list_times(run: Run, store: FeatureStore) -> list[tuple[str, str]]:
    """Lists how long each step took."""
    fitting = sum(row.seconds for row in run.read_history())
    answered = float(run.read_metrics()["seconds"])
    times = [
        ("extraction, once", _describe_extraction(store)),
        ("start, reading and reduction", format_seconds(max(0.0, answered - fitting))),
        ("fitting", f"{format_seconds(fitting)} for {len(run.read_history()):,} epochs"),
    ]
    return [(name, text) for name, text in times if text]


def list_commands(run: Run) -> str:
    """Lists what to type next, ready to be pasted."""
    folder = shlex.quote(make_printable(str(run.folder)))
    out = shlex.quote(make_printable(str(run.folder.with_name(f"{run.folder.name}-model"))))
    return (
        f"python -m train_head.export --run {folder} --out {out}\n"
        f"python -m train_head.predict --model {out}/model.keras FILE_OR_DIR\n"
        f"python -m train_head.report --run {folder}"
    )


def _count_labels(labels: Sequence[str]) -> str:
    counts = ", ".join(f"{count:,} {label}" for label, count in sorted(Counter(labels).items()))
    return f"{len(labels):,} ({counts})"


def _list_options(run: Run) -> list[tuple[str, Any]]:
    options = {**run.record.config, "solver": run.record.solver}
    return [(name, options[name]) for name in _HEAD_OPTIONS if options.get(name) is not None]


def _describe_extraction(store: FeatureStore) -> str:
    """Says how long the features took, at the rate of the last extraction; empty where nothing says it."""
    if not store.path.is_dir():
        return ""
    try:
        catalog = Catalog(store.path / CATALOG_NAME, writable=False)
    except FeatureStoreError:
        return ""
    try:
        rate = float(catalog.read_meta("rows_per_second") or catalog.read_meta("images_per_second") or 0)
    finally:
        catalog.close()
    if not rate:
        return ""
    return f"{format_seconds(store.num_features / rate)} for {store.num_features:,} features at {rate:.1f}/s"


def _find_versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _describe_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))


def _describe_backbone(run: Run, store: FeatureStore) -> str:
    name, cut = store.fingerprint.backbone, store.fingerprint.cut
    if run.unfreeze_from == NOTHING:
        return f"{name} up to {cut}, frozen"
    return f"{name} up to mixed7, trained again from {run.unfreeze_from} on"
