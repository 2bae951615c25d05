"""What a report is made from: a run, and its own examples in the store that it was fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.store import FeatureStore
from train_head.config import ReportConfig
from train_head.data.split import Split
from train_head.runs.read import Run
from train_head.runs.record import recover_run


@dataclass(frozen=True)
class Sources:
    """What a report is made from."""

    run: Run
    store: FeatureStore
    split: Split
    images: Path
    """The folder of pictures."""


def load_sources(config: ReportConfig) -> Sources:
    """Open a run and its store.

    Raises:
        HeadstartError: there is no run, one of its files was edited, or the store lacks features that it was fitted on.
    """
    # Before it is read, as one that is completed later is another run than the one that was read.
    recover_run(config.run)
    run = Run(config.run)
    run.check_files()
    store = run.open_store(config.store)
    return Sources(run, store, run.find_split(store), Path(run.find_images(store, config.images)))
