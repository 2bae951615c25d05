"""Log which pictures are used for training, and check that a store can be trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from base.errors import FeatureStoreError, HeadstartError
from base.invocation import format_command, format_options
from base.lock import is_locked
from base.regular import FileIdentity, RegularFile
from base.terminal import Console, format_count, format_list
from base.urls import Location, locate_pictures
from features.catalog.catalog import CATALOG_NAME
from features.contents import UnusableImage, UnusableReason
from features.store import Example, FeatureStore
from train_head.config import TrainConfig
from train_head.data.split import Split, hash_views, list_rows

NUM_SHOWN = 3
"""Largest number of conflicts listed in a warning."""


def log_dataset_summary(store: FeatureStore, split: Split, config: TrainConfig, console: Console) -> None:
    """Log the training and validation pictures; warn about missing views, unused pictures, leaks and conflicts."""
    console.info(
        f"{store.path}: {len(split.train):,} training and "
        f"{format_count(len(split.validation), 'validation picture')} "
        f"{'with any of the labels' if split.is_multi_label else 'of classes'} {format_list(split.classes)} "
        f"(split by {split.rule})"
    )
    if split.is_multi_label:
        _log_labels(split, console)
    if split.num_moved:
        share = len(split.validation) / (len(split.train) + len(split.validation))
        console.info(
            f"moved {format_count(split.num_moved, 'picture')} so that training and validation have every class; "
            f"{share:.0%} of the pictures are now for validation"
        )
    if split.group_of:
        sizes = Counter(split.group_of.values())
        largest = format_count(max(sizes.values()), "picture")
        console.info(
            f"{format_count(len(split.group_of), 'picture')} in {format_count(len(sizes), 'group')} of "
            f"near-duplicates, the largest with {largest}; each group is in training or in validation"
        )
    if config.views and config.views > 1:
        num_rows, num_expected = len(list_rows(store, split.train, config.views)), config.views * len(split.train)
        console.info(f"{config.views} views of each training picture, {num_rows:,} rows")
        if num_rows < num_expected:
            console.warning(
                f"{store.path}: {format_count(num_expected - num_rows, 'view')} of training pictures missing from the "
                "store: extraction was interrupted, the pictures were validation pictures at extraction, or "
                "the features are not finite. To add them, extract again with "
                f"{format_options('extract', {'views': config.views})}"
            )
    _log_unused(store, split, console)
    if leaks := split.count_leaks():
        console.warning(
            f"{format_count(leaks, 'validation picture')} with an identical copy in training: the validation accuracy "
            "is optimistically biased. Remove the copies"
        )
    if conflicts := list_conflicts([*split.train, *split.validation]):
        shown = ", ".join(" = ".join(paths) for paths in conflicts[:NUM_SHOWN])
        more = f" and {len(conflicts) - NUM_SHOWN:,} more" if len(conflicts) > NUM_SHOWN else ""
        console.warning(
            f"{format_count(len(conflicts), 'picture')} with identical copies "
            f"{'that have other labels' if split.is_multi_label else 'in several classes'}: "
            f"{shown}{more}. Each copy keeps its own label, so that no head can classify all copies correctly. "
            "Keep one copy"
        )


def _log_labels(split: Split, console: Console) -> None:
    """Log the pictures without labels, and warn about labels that validation cannot evaluate."""
    parts = (split.train, split.validation)
    unlabelled = [sum(not example.label for example in part) for part in parts]
    if any(unlabelled):
        console.info(f"{unlabelled[0]:,} training and {unlabelled[1]:,} validation pictures have none of the labels")
    counts = split.count_labels(split.validation)
    if missing := [label for label in split.classes if not 0 < counts[label] < len(split.validation)]:
        console.warning(
            f"{format_count(len(missing), 'label')} that no validation picture has, or that all have, without average "
            f"precision: {format_list([repr(label) for label in missing])}. Add pictures with and without them"
        )


def _log_unused(store: FeatureStore, split: Split, console: Console) -> None:
    """Log the pictures of the folder that are used neither for training nor for validation, by reason."""
    if store.contents.part:
        command = format_command("features merge", "PARTS", "--into", "STORE")
        console.warning(
            f"{store.path} has only part {store.contents.part} of its folder. Run `{command}` with all parts, and "
            "train on the merged store"
        )
    by_reason: dict[UnusableReason, list[UnusableImage]] = {}
    for found in store.list_unusable():
        by_reason.setdefault(found.reason, []).append(found)
    for reason, unusable in by_reason.items():
        first = unusable[0]
        match reason:
            case UnusableReason.PENDING:
                why = "without features, because extraction was interrupted or a shard is missing"
                advice = (
                    "An extraction is running"
                    if is_extracting(store)
                    else f"Run `{format_command('extract')}` again with the same options"
                )
            case UnusableReason.FAILED:
                why = f"not decodable, such as {first.image.path} ({first.detail})"
                advice = "Replace or remove them"
            case UnusableReason.UNSOUND:
                why = f"with NaN or overflow in their features, such as {first.image.path}"
                advice = "Check the pictures and the weights"
        console.warning(f"{store.path}: {len(unusable):,} of {len(store.images):,} pictures not used: {why}. {advice}")
    if split.test:
        console.info(f"{format_count(len(split.test), 'picture')} in test/ reserved for the final test accuracy")


def count_unusable(store: FeatureStore) -> dict[str, int]:
    """Return the number of unusable pictures for each reason, keyed as in the metrics: `num_pending`, ..."""
    found = Counter(unusable.reason for unusable in store.list_unusable())
    return {f"num_{reason.value}": found[reason] for reason in UnusableReason}


def list_conflicts(examples: Iterable[Example]) -> list[list[str]]:
    """List the pictures that are in the folders of several classes, each as its paths, one per class."""
    paths: dict[bytes, dict[str, str]] = {}
    for example in sorted(examples, key=lambda example: example.path):
        paths.setdefault(example.content_hash, {}).setdefault(example.label, example.path)
    return sorted(list(by_label.values()) for by_label in paths.values() if len(by_label) > 1)


def check_images_folder(store: FeatureStore, images: Location | None) -> None:
    """Raise HeadstartError if a store was made from another folder of pictures; do nothing if it records none."""
    place = locate_pictures(images).resolve() if images else None
    if place and store.images_folder and locate_pictures(store.images_folder) != place:
        raise HeadstartError(
            store.path,
            f"a store of the pictures in {place}",
            f"a store of the pictures in {store.images_folder}",
            "Extract that folder first, or give its store",
        )


def is_extracting(store: FeatureStore) -> bool:
    """Return whether another process is writing to a store, or to one of the joined stores."""
    return any(is_locked(part.path) for part in store.parts or (store,))


def check_extraction(store: FeatureStore) -> None:
    """Raise HeadstartError if a store has no features yet because its extraction is unfinished."""
    is_running = is_extracting(store)
    if store.examples or not (store.num_pending or is_running):
        return
    raise HeadstartError(
        store.path,
        "features to train on",
        f"none yet for {format_count(store.num_pending, 'picture')}" if store.num_pending else "none yet",
        "Wait until the running extraction has finished"
        if is_running
        else f"Run `{format_command('extract')}` again with the same options to continue",
    )


def identify_sources(path: Path) -> dict[Path, FileIdentity]:
    """Return the identities of the catalogs of a store and of its cuts, or of a packed store; any change alters one."""
    files = [path] if path.is_file() else [path / CATALOG_NAME, *path.glob(f"*/{CATALOG_NAME}")]
    found = {}
    for file in files:
        with suppress(OSError), RegularFile(file, follow=True) as opened:
            found[file] = opened.identity
    return found


def warn_if_store_changed(store: FeatureStore, split: Split, config: TrainConfig, console: Console) -> None:
    """Warn if the store on disk no longer has the pictures and views that a run was fitted on."""
    try:
        now = store.reopen()
        same = now.examples == store.examples
        same = same and hash_views(now, split, config.views) == hash_views(store, split, config.views)
    except FeatureStoreError as error:
        console.warning(f"the store can no longer be read: {error} The run is complete")
        return
    if not same:
        console.warning(
            f"{store.path} changed during training: the run uses the pictures as they were at its start. "
            "Train again to use the current ones"
        )
