"""Commands `info` and `pack` of the store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_command
from tests.features.stores import SHAPE, copy_store, make_image, make_writer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = copy_store(tmp_path / "store", range(10))
    with make_writer(folder) as writer:
        writer.update_images([make_image(3)._replace(path="dogs/copy.jpg", split="train")], ["cats/00000.jpg"])
    return folder


def test_info_process_prints_counts_as_json(store: Path) -> None:
    command = [sys.executable, "-m", "features", "info", str(store), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    info = json.loads(done.stdout)
    assert info["images"] == [
        {"split": "", "label": "cats", "status": "done", "count": 4},
        {"split": "", "label": "dogs", "status": "done", "count": 5},
        {"split": "train", "label": "dogs", "status": "done", "count": 1},
    ]
    assert (info["features"], info["examples"], info["feature_shape"]) == (10, 10, list(SHAPE))


@pytest.mark.unit
def test_info_and_pack_commands_agree_on_the_packed_store(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    packed = run_command("features.__main__", "pack", store, out, "--json").json
    info = run_command("features.__main__", "info", out, "--json").json
    assert packed == {"features": 10, "bytes": out.stat().st_size, "file": str(out)}
    assert (info["examples"], info["bytes"], info["shards"]) == (10, out.stat().st_size, 0)


@pytest.mark.unit
def test_info_of_many_classes_has_a_row_for_each_split_and_all_counts_as_json(tmp_path: Path) -> None:
    with make_writer(folder := copy_store(tmp_path / "store", range(10))) as writer:
        names = [f"class {number}" for number in range(1000)]
        images = [make_image(number % 10, name, "test") for number, name in enumerate(names)]
        writer.update_images(images + [make_image(4, "class 7", "train")], [])
    done = run_command("features.__main__", "info", folder, "--json")
    counts = [image["label"] for image in done.json["images"] if image["split"] == "test"]
    assert counts == sorted(names)
    assert len(done.err.splitlines()) < 50
    assert sum("1,000" in line for line in done.err.splitlines()) == 1


@pytest.mark.unit
def test_info_table_has_counts_and_fingerprint(store: Path) -> None:
    done = run_command("features.__main__", "info", store)
    assert done.status == 0
    assert all(text in done.out for text in ("10", "2 x 2 x 3", "cats", "dogs", "mixed7"))
