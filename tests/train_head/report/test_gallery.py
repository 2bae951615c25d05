"""Choice of the pictures that a report shows, and their thumbnails."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from base.urls import UrlPath
from tests.archives import write_zip
from tests.pictures import draw_picture, encode
from tests.train_head.training import ROOT
from train_head.report.gallery import THUMBNAIL_SIDE, Thumbnail, choose_uncertain, make_thumbnail, sort_wrong
from train_head.runs.tables import Prediction


def make_prediction(path: str, label: str, dogs: float) -> Prediction:
    return Prediction(path, label, "dogs" if dogs > 0.5 else "cats", ["cats", "dogs"], np.array([1 - dogs, dogs]))


PLANTED = [
    make_prediction("cats/right.jpg", "cats", 0.01),
    make_prediction("cats/a little wrong.jpg", "cats", 0.55),
    make_prediction("dogs/worst.jpg", "dogs", 0.02),
    make_prediction("dogs/nearly wrong.jpg", "dogs", 0.52),
    make_prediction("cats/very wrong.jpg", "cats", 0.9),
    make_prediction("cats/tied.jpg", "cats", 0.9),
]


def test_sort_wrong_orders_by_probability_of_the_true_class_then_path() -> None:
    paths = ["dogs/worst.jpg", "cats/tied.jpg", "cats/very wrong.jpg", "cats/a little wrong.jpg"]
    assert [found.path for found in sort_wrong(PLANTED)] == paths
    assert sort_wrong(PLANTED[:1]) == []


def test_choose_uncertain_takes_the_smallest_margins_correct_ones_included() -> None:
    assert [found.path for found in choose_uncertain(PLANTED, 3)] == [
        "dogs/nearly wrong.jpg",
        "cats/a little wrong.jpg",
        "cats/tied.jpg",
    ]


def test_choose_uncertain_of_three_classes_compares_the_two_highest_probabilities() -> None:
    def make(path: str, *probabilities: float) -> Prediction:
        return Prediction(path, "cats", "cats", ["cats", "dogs", "owls"], np.array(probabilities))

    found = choose_uncertain([make("a", 0.5, 0.3, 0.2), make("b", 0.45, 0.44, 0.11), make("c", 0.4, 0.35, 0.25)])
    assert [prediction.path for prediction in found] == ["b", "c", "a"]


def read_thumbnail(path: Path, data: bytes) -> Image.Image:
    path.write_bytes(data)
    thumbnail = make_thumbnail(path, hashlib.sha256(data).digest(), path.parent)
    assert thumbnail.problem == ""
    start, _, text = thumbnail.address.partition(",")
    assert start == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize(("size", "shown"), [((400, 100), (200, 50)), ((30, 20), (30, 20)), ((1000, 1), (200, 1))])
def test_make_thumbnail_keeps_the_proportions_and_never_enlarges(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    thumbnail = read_thumbnail(tmp_path / "a.png", encode(Image.new("RGB", size, (200, 60, 40))))
    assert thumbnail.size == shown
    assert max(shown) <= THUMBNAIL_SIDE
    np.testing.assert_allclose(np.asarray(thumbnail).mean(axis=(0, 1)), (200, 60, 40), atol=3)


def test_make_thumbnail_decodes_as_extraction_does(tmp_path: Path) -> None:
    # The left half is transparent, which extraction composites on white.
    picture = Image.new("RGBA", (60, 60), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (30, 0, 60, 60))
    values = np.asarray(read_thumbnail(tmp_path / "a.png", encode(picture)), np.float64)
    np.testing.assert_allclose(values[:, :20].mean(axis=(0, 1)), 255, atol=4)
    np.testing.assert_allclose(values[:, 40:].mean(axis=(0, 1)), (0, 0, 255), atol=8)


def test_make_thumbnail_links_to_the_file_relative_to_the_report(tmp_path: Path) -> None:
    data = encode(draw_picture("cats", 1))
    (tmp_path / "a #1 猫.png").write_bytes(data)
    found = make_thumbnail(tmp_path / "a #1 猫.png", hashlib.sha256(data).digest(), tmp_path / "work/run")
    assert found.link == "../../" + quote("a #1 猫.png")


def test_make_thumbnail_in_an_archive_has_no_link(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"cats/1.png": encode(draw_picture("cats", 1))})
    path = UrlPath(str(archive), "zip") / "cats/1.png"
    found = make_thumbnail(path, None, tmp_path)
    assert found.address.startswith("data:image/jpeg")
    assert (found.link, found.problem) == ("", "")
    assert make_thumbnail(path.parent / "2.png", None, tmp_path).problem


def test_make_thumbnail_of_a_changed_missing_or_damaged_picture_is_empty_with_a_reason(tmp_path: Path) -> None:
    data = encode(draw_picture("cats", 1))
    (tmp_path / "changed.png").write_bytes(encode(draw_picture("cats", 2)))
    (tmp_path / "empty.png").write_bytes(b"")
    hashes = {"changed": hashlib.sha256(data), "missing": hashlib.sha256(data), "empty": hashlib.sha256(b"")}
    found = [make_thumbnail(tmp_path / f"{name}.png", digest.digest(), tmp_path) for name, digest in hashes.items()]
    assert [(thumbnail.address, thumbnail.link) for thumbnail in found] == [("", "")] * 3
    assert len({thumbnail.problem for thumbnail in found} - {""}) == 3


def test_make_thumbnail_in_a_locale_without_utf8_finds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "Größe 猫.png"
    path.write_bytes(encode(draw_picture("cats", 1)))
    code = f"""
import hashlib, sys
from pathlib import Path
from urllib.parse import quote
from train_head.report.gallery import make_thumbnail
assert sys.getfilesystemencoding() == "ascii"
path = Path({ascii(str(path))})
found = make_thumbnail(path, bytes.fromhex("{hashlib.sha256(path.read_bytes()).hexdigest()}"), path.parent)
print(found.problem or found.address[:10])
"""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | plain, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("data:image\n", 0), done.stderr


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png"])
def test_make_thumbnail_of_an_invalid_file_name_is_empty(tmp_path: Path, name: str) -> None:
    found = make_thumbnail(tmp_path / name, b"", tmp_path)
    assert found == Thumbnail("", problem=found.problem)
    assert found.problem
