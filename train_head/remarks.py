"""What a training says of its pictures, before and after it."""

from __future__ import annotations

from features.console import Console
from features.errors import FeatureStoreError
from features.store import FeatureStore
from train_head.config import TrainConfig
from train_head.run import hash_views
from train_head.split import Split, list_rows


def tell_what_there_is(store: FeatureStore, split: Split, config: TrainConfig, console: Console) -> None:
    """Says what is trained on, and what keeps the accuracy from being taken at its word."""
    console.say(
        f"{store.path}: {len(split.train):,} training and {len(split.validation):,} validation pictures of "
        f"{', '.join(split.classes)} (by {split.rule})"
    )
    if config.views and config.views > 1:
        num_rows, num_wanted = len(list_rows(store, split.train, config.views)), config.views * len(split.train)
        console.say(f"{config.views} views of each training picture, {num_rows:,} rows")
        if num_rows < num_wanted:
            console.warn(
                f"{store.path}: {num_wanted - num_rows:,} views of training pictures are not stored, because "
                "extraction was interrupted, they validated then or hold NaN; run `python -m extract "
                f"--views {config.views}` again"
            )
    if store.num_pending:
        console.warn(
            f"{store.path}: {store.num_pending:,} of {len(store.images):,} pictures have no features, because "
            "extraction was interrupted or a shard was lost, and are left out; run `python -m extract` again"
        )
    if leaks := split.count_leaks():
        console.warn(
            f"{leaks:,} validation pictures are in the training folder too, byte for byte: "
            "the validation accuracy is flattered"
        )
    labels: dict[bytes, set[str]] = {}
    for example in split.train + split.validation:
        labels.setdefault(example.content_hash, set()).add(example.label)
    conflicts = sum(len(found) > 1 for found in labels.values())
    if conflicts:
        console.warn(f"{conflicts:,} pictures are in the folders of several classes")


def warn_of_changed_store(store: FeatureStore, split: Split, config: TrainConfig, console: Console) -> None:
    """Says so where the store is no longer the one that the run was fitted on."""
    try:
        now = FeatureStore(store.path)
        same = now.examples == store.examples
        same = same and hash_views(now, split, config.views) == hash_views(store, split, config.views)
    except FeatureStoreError as error:
        console.warn(f"{store.path} can no longer be read: {error}")
        return
    if not same:
        console.warn(
            f"{store.path} changed during training; the run is of its state at the start. "
            "Train again for today's pictures"
        )
