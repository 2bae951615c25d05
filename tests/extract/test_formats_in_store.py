"""A store with pictures whose decoder is missing later: they keep their features, and new ones are skipped."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from extract.result import ExtractResult
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.commands import CommandResult, run_command
from tests.extract.extraction import extract, find_examples, read_by_path
from tests.inputs.folders import SMALL
from tests.inputs.makers import draw, encode_heic, encode_jpeg_xl
from tests.pictures import draw_picture, fill_folder
from tests.without_decoders import hide_decoders

OLD = ["cats/phone.heic", "dogs/small.jxl", "dogs/whatsapp.jpg"]
NEW = ["cats/later.heic", "dogs/later.jxl"]
"""Pictures in formats of the extra, before and after the decoders are gone."""


def write_old(folder: Path) -> None:
    fill_folder(folder, {"cats": 3, "dogs": 3})
    (folder / OLD[0]).write_bytes(encode_heic(draw("cats")))
    (folder / OLD[1]).write_bytes(encode_jpeg_xl(draw("dogs")))
    (folder / OLD[2]).write_bytes(encode_heic(draw_picture("dogs", 7)))


@dataclass(frozen=True)
class Extended:
    """Store that was made with the decoders, and extended without and then with them."""

    folder: Path
    before: FeatureStore
    without: FeatureStore
    command: CommandResult
    """Result of the extension without the decoders."""
    again: ExtractResult
    """Result of a run with the decoders after it."""
    after: FeatureStore


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    folder = tmp_path_factory.mktemp("formats")
    pictures, store = folder / "pictures", folder / "store"
    write_old(pictures)
    assert extract(pictures, store).computed == 9
    before = FeatureStore(shutil.copytree(store, folder / "before"))
    fill_folder(pictures, {"cats": 1}, start=70)
    (pictures / NEW[0]).write_bytes(encode_heic(draw_picture("cats", 8)))
    (pictures / NEW[1]).write_bytes(encode_jpeg_xl(draw_picture("dogs", 8)))
    # As after a copy to another computer.
    os.utime(pictures / OLD[0])
    with hide_decoders():
        command = run_command("extract.__main__", "--images", pictures, "--store", store, *SMALL, "--json")
    without = FeatureStore(shutil.copytree(store, folder / "without"))
    again = extract(pictures, store)
    return Extended(pictures, before, without, command, again, FeatureStore(store))


def test_extract_without_decoders_keeps_the_features_of_stored_pictures(extended: Extended) -> None:
    assert extended.command.status == 0, extended.command.err
    rows = {image.path: image.status for image in extended.without.images}
    assert {path: rows[path] for path in OLD} == dict.fromkeys(OLD, ImageStatus.DONE)
    np.testing.assert_array_equal(read_by_path(extended.without, OLD), read_by_path(extended.before, OLD))


def test_extract_without_decoders_skips_new_pictures_and_computes_the_others(extended: Extended) -> None:
    assert extended.command.json["computed"] == 1
    assert sorted(found["path"] for found in extended.command.json["skipped"]) == NEW
    assert not {*NEW} & {*find_examples(extended.without)}


def test_extract_without_decoders_warns_about_both_with_the_install_command(extended: Extended) -> None:
    warnings = [warning for warning in extended.command.warnings if "headstart[heic]" in warning]
    assert len([warning for warning in warnings if NEW[0] in warning]) == 1
    assert len([warning for warning in warnings if "HEIC" in warning and NEW[0] not in warning]) == 1


def test_extract_with_decoders_again_computes_the_skipped_pictures(extended: Extended) -> None:
    assert (extended.again.computed, extended.again.skipped) == (2, [])
    assert {*NEW, *OLD} <= {*find_examples(extended.after)}
