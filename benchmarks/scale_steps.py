"""Steps of `benchmarks.scale` that no command does alone; each is run in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Argument

from base.command_line import run_commands
from base.terminal import Console
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint, load_origin
from features.catalog.locations import HASH_BYTES
from features.schema import FEATURE_DTYPE, FeatureKey, FeatureStatus
from features.shards.size import count_rows_per_shard
from features.store import FeatureStore
from features.store_writer import FeatureWriter


@dataclass(frozen=True)
class StepConfig:
    """Options of a step."""

    store: Annotated[Path, Argument(help="Folder of the store.", metavar="STORE")]


def open_store(config: StepConfig, console: Console) -> Mapping[str, Any]:
    """Open a store, and list its pictures."""
    return {"pictures": len(FeatureStore(config.store))}


def commit(config: StepConfig, console: Console) -> Mapping[str, Any]:
    """Add one shard of new features."""
    with _create_writer(config.store) as writer:
        rng, shape = np.random.default_rng(0), load_origin(writer.catalog).feature_shape
        num_rows = count_rows_per_shard(shape)
        keys = [FeatureKey(rng.bytes(HASH_BYTES), 0) for _ in range(num_rows)]
        features = rng.random((num_rows, *shape), np.float32).astype(FEATURE_DTYPE)
        writer.add_features(keys, features, [FeatureStatus.OK] * num_rows)
        writer.commit()
    return {}


def relabel(config: StepConfig, console: Console) -> Mapping[str, Any]:
    """Change the label of one picture."""
    with _create_writer(config.store) as writer:
        first = writer.catalog.read_images()[0]
        writer.update_images([first._replace(label="others")], [])
    return {}


def _create_writer(store: Path) -> FeatureWriter:
    with closing(Catalog(store / CATALOG_NAME, writable=False)) as catalog:
        return FeatureWriter(store, load_fingerprint(catalog), load_origin(catalog))


if __name__ == "__main__":
    steps = {"open": open_store, "commit": commit, "relabel": relabel}
    run_commands({name: (step, StepConfig) for name, step in steps.items()}, "python -m benchmarks.scale_steps")
