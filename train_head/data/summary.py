"""The pictures of a training: what is logged of them, and stores that are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from base.errors import FeatureStoreError, HeadstartError
from base.lock import is_locked
from base.terminal import Console
from features.contents import UnusableImage, UnusableReason
from features.store import Example, FeatureStore
from train_head.config import TrainConfig
from train_head.data.split import Split, hash_views, list_rows

NUM_SHOWN = 3
"""Pictures listed in a warning."""


def log_dataset_summary(store: FeatureStore, split: Split, config: TrainConfig, console: Console) -> None:
    """Log what is trained on; warn of missing views, left-out pictures, leaks and conflicting labels."""
    console.info(
        f"{store.path}: {len(split.train):,} training and {len(split.validation):,} validation pictures of "
        f"{', '.join(split.classes)} (by {split.rule})"
    )
    if config.views and config.views > 1:
        num_rows, num_wanted = len(list_rows(store, split.train, config.views)), config.views * len(split.train)
        console.info(f"{config.views} views of each training picture, {num_rows:,} rows")
        if num_rows < num_wanted:
            console.warning(
                f"{store.path}: {num_wanted - num_rows:,} views of training pictures are not stored, because "
                "extraction was interrupted, they validated then or hold NaN; run `python -m extract "
                f"--views {config.views}` again"
            )
    _log_left_out(store, split, console)
    if leaks := split.count_leaks():
        console.warning(
            f"{leaks:,} validation pictures are in the training folder too, byte for byte: "
            "the validation accuracy is optimistically biased"
        )
    if conflicts := list_conflicts([*split.train, *split.validation]):
        shown = ", ".join(" = ".join(paths) for paths in conflicts[:NUM_SHOWN])
        more = f" and {len(conflicts) - NUM_SHOWN:,} more" if len(conflicts) > NUM_SHOWN else ""
        console.warning(
            f"{len(conflicts):,} pictures are in the folders of several classes, byte for byte: {shown}{more}. "
            "Each copy is used with the label of its own folder; keep one, or the head cannot be right on both"
        )


def _log_left_out(store: FeatureStore, split: Split, console: Console) -> None:
    """Log every picture of the folder that is neither trained on nor validates, by reason."""
    by_reason: dict[UnusableReason, list[UnusableImage]] = {}
    for found in store.list_unusable():
        by_reason.setdefault(found.reason, []).append(found)
    for reason, unusable in by_reason.items():
        first = unusable[0]
        match reason:
            case UnusableReason.PENDING:
                why = "have no features, because extraction was interrupted or a shard was lost, and are left out; "
                why += "an extraction is running" if is_locked(store.path) else "run `python -m extract` again"
            case UnusableReason.FAILED:
                why = f"could not be decoded, such as {first.image.path}: {first.detail}"
            case UnusableReason.UNSOUND:
                why = f"have features with NaN or overflow, such as {first.image.path}, and are left out"
        console.warning(f"{store.path}: {len(unusable):,} of {len(store.images):,} pictures {why}")
    if split.test:
        console.info(f"{len(split.test):,} pictures in test/ are kept for the final number")
    num_used = len(split.train) + len(split.validation) + len(split.test)
    if num_used < len(store.examples):
        console.warning(
            f"{len(store.examples) - num_used:,} pictures are in folders that are not used (by {split.rule})"
        )


def count_unusable(store: FeatureStore) -> dict[str, int]:
    """Count the pictures that cannot be trained on, by reason, for the metrics: `num_pending`, ..."""
    found = Counter(unusable.reason for unusable in store.list_unusable())
    return {f"num_{reason.value}": found[reason] for reason in UnusableReason}


def list_conflicts(examples: Iterable[Example]) -> list[list[str]]:
    """List the pictures that are in the folders of several classes: for each content its paths, one a class."""
    paths: dict[bytes, dict[str, str]] = {}
    for example in sorted(examples, key=lambda example: example.path):
        paths.setdefault(example.content_hash, {}).setdefault(example.label, example.path)
    return sorted(list(by_label.values()) for by_label in paths.values() if len(by_label) > 1)


def check_images_folder(store: FeatureStore, images: Path | None) -> None:
    """Raise HeadstartError where a store is of another folder of pictures; a pack may not record its folder."""
    if images and store.images_folder and Path(store.images_folder) != images.resolve():
        raise HeadstartError(
            store.path,
            f"a store of the pictures in {images.resolve()}",
            f"one of the pictures in {store.images_folder}",
            "Run `python -m extract` on that folder first, or give its own store with --store (STORE=)",
        )


def check_extraction(store: FeatureStore) -> None:
    """Raise HeadstartError where a store has nothing to train on yet, because its extraction is not done."""
    is_running = is_locked(store.path)
    if store.examples or not (store.num_pending or is_running):
        return
    raise HeadstartError(
        store.path,
        "features to train on",
        f"none yet of {store.num_pending:,} pictures" if store.num_pending else "none yet",
        "An extraction is running: wait until it has finished" if is_running else "Run `python -m extract` to go on",
    )


def warn_if_store_changed(store: FeatureStore, split: Split, config: TrainConfig, console: Console) -> None:
    """Warn where the store is no longer the one that the run was fitted on."""
    try:
        now = FeatureStore(store.path)
        same = now.examples == store.examples
        same = same and hash_views(now, split, config.views) == hash_views(store, split, config.views)
    except FeatureStoreError as error:
        console.warning(f"{store.path} can no longer be read: {error}")
        return
    if not same:
        console.warning(
            f"{store.path} changed during training; the run is of its state at the start. "
            "Train again for today's pictures"
        )
