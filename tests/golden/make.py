"""Create the golden store of the current schema version; run once for each version: `python -m tests.golden.make`."""

from __future__ import annotations

import shutil
from pathlib import Path

from base.lock import LOCK_NAME
from features.schema import SCHEMA_VERSION
from tests.features.stores import fill_store, make_image, make_writer, pack

GOLDEN = Path(__file__).parent


def make_golden_store(folder: Path) -> None:
    """Create a store of ten features in three shards, with a removed and a duplicate picture, and its packed store."""
    fill_store(folder / "store", range(10))
    with make_writer(folder / "store") as writer:
        copy = make_image(3)._replace(path="dogs/ç-\udcff.jpg", split="validation")
        writer.update_images([copy], ["cats/00000.jpg"])
        writer.write_meta("images_folder", "/pictures")
    pack(folder / "store", folder / "packed.h5")
    (folder / "store" / LOCK_NAME).unlink()


if __name__ == "__main__":
    target = GOLDEN / f"v{SCHEMA_VERSION}"
    shutil.rmtree(target, ignore_errors=True)
    make_golden_store(target)
