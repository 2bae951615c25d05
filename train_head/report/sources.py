"""What a report is made from: a run, and the store that it was fitted on as it was then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.store import FeatureStore
from train_head.config import ReportConfig
from train_head.run import Run, hash_views
from train_head.same_run import refuse_changed_store
from train_head.split import Split, split_examples


@dataclass(frozen=True)
class Sources:
    """What a report is made from."""

    run: Run
    store: FeatureStore
    split: Split
    images: Path
    """The folder of pictures."""


def load_sources(config: ReportConfig) -> Sources:
    """Opens a run and its store.

    Raises:
        HeadstartError: there is no run, or the store is not the one that it was fitted on.
    """
    run = Run(config.run)
    store = run.open_store(config.store)
    split = split_examples(store.examples, float(run.record.config["validation_split"]))
    refuse_changed_store(run, store.fingerprint.digest, split, hash_views(store, split, run.num_views))
    return Sources(run, store, split, Path(config.images or store.images_folder))
