"""The child of `hostile.py`: opens foreign files one after the other, and says of each what came of it.

Reads paths from standard input, a line each; answers each with a line: `ok`, `refused REASON` or `broken REASON`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from base.errors import HeadstartError
from features.schema import Features


def open_shard(path: Path) -> None:
    """Rebuilds the catalog of a store of one shard, whose name has its digest, and reads every feature."""
    from features.maintenance.check import rebuild_catalog
    from features.store import FeatureStore

    rebuild_catalog(path)
    store = FeatureStore(path)
    for place in store.contents.locations.values():
        store.contents.read_rows(place.shard, [place.row], _make_row(store.feature_shape))


def open_pack(path: Path) -> None:
    """Opens a packed store, and reads every feature."""
    from features.store import FeatureStore

    store = FeatureStore(path)
    store.read(store.examples)


def open_model(path: Path) -> None:
    """Loads an exported model as `predict` does, and uses it."""
    import numpy as np

    from train_head.export.load import load_export

    _, model = load_export(path)
    np.asarray(model(np.zeros((1, 20, 30, 3), np.float32))).sum()


def share_backbone() -> None:
    """Build one backbone for all files, which takes a second; each file's weights are put into it."""
    from extract import backbone

    backbone.build_backbone = functools.cache(backbone.build_backbone)


def _make_row(shape: tuple[int, ...]) -> Features:
    import numpy as np

    return np.empty((1, *shape), np.float16)


def answer(act: Callable[[Path], None], path: Path) -> str:
    """Opens one file; anything but a HeadstartError would be a traceback."""
    try:
        act(path)
    except HeadstartError as error:
        return f"refused {error}"
    except BaseException as error:
        return f"broken {type(error).__name__}: {error}"
    return "ok"


if __name__ == "__main__":
    kinds: dict[str, Callable[[Path], None]] = {"shard": open_shard, "pack": open_pack, "model": open_model}
    share_backbone()
    for line in sys.stdin:
        print(answer(kinds[sys.argv[1]], Path(line.strip())).replace("\n", " "), flush=True)
