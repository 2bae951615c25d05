"""Child process of `hostile.py`: open untrusted files and report the outcomes.

Reads one path per line from standard input, and prints one line for each: `ok`, `rejected ERROR` or `broken ERROR`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from base.errors import HeadstartError
from features.schema import Features


def open_shard(path: Path) -> None:
    """Rebuild the catalog of a store of one shard, and read every feature."""
    from features.maintenance.check import rebuild_catalog
    from features.store import FeatureStore

    rebuild_catalog(path)
    store = FeatureStore(path)
    for location in store.contents.locations.values():
        store.contents.read_rows(location.shard, [location.row], _make_row(store.feature_shape))


def open_pack(path: Path) -> None:
    """Open a packed store, and read every feature."""
    from features.store import FeatureStore

    store = FeatureStore(path)
    store.read(store.examples)


def open_model(path: Path) -> None:
    """Load an exported model as `predict` does, and use it."""
    import numpy as np

    from train_head.export.load import load_export

    _, model = load_export(path)
    np.asarray(model(np.zeros((1, 20, 30, 3), np.float32))).sum()


def share_backbone() -> None:
    """Build only one backbone, which takes a second; the weights of each file are loaded into it."""
    from extract import backbone

    backbone.build_backbone = functools.cache(backbone.build_backbone)


def _make_row(shape: tuple[int, ...]) -> Features:
    import numpy as np

    return np.empty((1, *shape), np.float16)


def answer(function: Callable[[Path], None], path: Path) -> str:
    """Open a file, and return the outcome; every error except HeadstartError is a failure."""
    try:
        function(path)
    except HeadstartError as error:
        return f"rejected {error}"
    except BaseException as error:
        return f"broken {type(error).__name__}: {error}"
    return "ok"


if __name__ == "__main__":
    kinds: dict[str, Callable[[Path], None]] = {"shard": open_shard, "pack": open_pack, "model": open_model}
    share_backbone()
    for line in sys.stdin:
        print(answer(kinds[sys.argv[1]], Path(line.strip())).replace("\n", " "), flush=True)
