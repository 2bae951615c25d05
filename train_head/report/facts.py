"""What a report states about a run: facts, times, and the commands to continue with."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from base.errors import FeatureStoreError
from base.terminal import format_seconds, make_printable
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.store import FeatureStore
from train_head.config import NOTHING
from train_head.data.split import Split
from train_head.runs.read import Run

_HEAD_OPTIONS = ["solver", "rank", "epochs", "batch_size", "units", "dropout", "l2", "optimizer", "learning_rate"]
_HEAD_OPTIONS += ["momentum", "class_weight", "patience", "seed"]
_LIBRARIES = ("numpy", "scikit-learn", "keras")


def list_facts(run: Run, store: FeatureStore, split: Split) -> list[tuple[str, str]]:
    """Lists what was trained on what; folders and files by their last part, since a report may be passed on."""
    record, fingerprint, origin = run.record, store.fingerprint, store.origin
    weights = " ".join(dict.fromkeys(filter(None, (_name(origin.weights_name), _name(origin.weights_file)))))
    facts = [
        ("pictures", _name(store.images_folder)),
        ("training", _count_labels([example.label for example in split.train])),
        ("validation", f"{_count_labels([example.label for example in split.validation])}, by {record.split_rule}"),
        *([("test", _count_labels([example.label for example in split.test]))] if split.test else []),
        ("backbone", _describe_backbone(run, store)),
        ("weights", f"{weights}, SHA-256 of the tensors {fingerprint.weights_sha256[:16]}…"),
        (
            "picture",
            f"{fingerprint.image_size} x {fingerprint.image_size} px, {fingerprint.resize}, {fingerprint.scale}",
        ),
        (
            "features",
            f"{' x '.join(map(str, record.feature_shape))}, stored as {fingerprint.dtype}, "
            f"computed in {fingerprint.precision} with {fingerprint.engine}",
        ),
        ("views", f"{run.num_views} of each training picture"),
        ("store", f"{_name(record.store)}, fingerprint {record.fingerprint[:16]}…"),
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


def list_commands(place: Path) -> str:
    """List what to type next, with the run's folder as seen from the one in which the report is made.

    A run elsewhere is named by its last part: the page may be passed on, and holds no path of this machine.
    """
    here = Path.cwd()
    shown = place.relative_to(here) if place.is_relative_to(here) and place != here else Path(place.name)
    folder = shlex.quote(make_printable(str(shown)))
    out = shlex.quote(make_printable(str(shown.with_name(f"{shown.name}-model"))))
    return (
        f"python -m train_head.export --run {folder} --out {out}\n"
        f"python -m train_head.predict --model {out}/model.keras FILE_OR_DIR\n"
        f"python -m train_head.report --run {folder}"
    )


def _name(path: str) -> str:
    """Return the last part of a path, which shows nothing of the machine that it is on; other text as it is."""
    return PurePath(path).name or path


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
