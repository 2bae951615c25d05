"""Which pictures a report shows, among planted mistakes; and their thumbnails."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pictures import draw_picture, encode
from tests.train_head.training import ROOT
from train_head.report.gallery import THUMBNAIL_SIDE, Thumbnail, choose_unsure, choose_worst, draw_thumbnail
from train_head.runs.tables import Prediction


def make_prediction(path: str, label: str, dogs: float) -> Prediction:
    return Prediction(path, label, "dogs" if dogs > 0.5 else "cats", {"cats": 1 - dogs, "dogs": dogs})


PLANTED = [
    make_prediction("cats/right.jpg", "cats", 0.01),
    make_prediction("cats/a little wrong.jpg", "cats", 0.55),
    make_prediction("dogs/worst.jpg", "dogs", 0.02),
    make_prediction("dogs/nearly wrong.jpg", "dogs", 0.52),
    make_prediction("cats/very wrong.jpg", "cats", 0.9),
    make_prediction("cats/tied.jpg", "cats", 0.9),
]


def test_choose_worst_takes_the_planted_mistakes_worst_first_and_ties_by_path() -> None:
    paths = ["dogs/worst.jpg", "cats/tied.jpg", "cats/very wrong.jpg", "cats/a little wrong.jpg"]
    assert [found.path for found in choose_worst(PLANTED)] == paths
    assert [found.path for found in choose_worst(PLANTED, 2)] == paths[:2]
    assert choose_worst(PLANTED[:1]) == []


def test_choose_unsure_takes_those_nearest_the_threshold_right_ones_too() -> None:
    assert [found.path for found in choose_unsure(PLANTED, 3)] == [
        "dogs/nearly wrong.jpg",
        "cats/a little wrong.jpg",
        "cats/tied.jpg",
    ]


def test_choose_unsure_of_three_classes_goes_by_the_two_most_probable() -> None:
    def make(path: str, *probabilities: float) -> Prediction:
        return Prediction(path, "cats", "cats", dict(zip(("cats", "dogs", "owls"), probabilities, strict=True)))

    found = choose_unsure([make("a", 0.5, 0.3, 0.2), make("b", 0.45, 0.44, 0.11), make("c", 0.4, 0.35, 0.25)])
    assert [prediction.path for prediction in found] == ["b", "c", "a"]


def read_thumbnail(path: Path, data: bytes) -> Image.Image:
    path.write_bytes(data)
    thumbnail = draw_thumbnail(path, hashlib.sha256(data).digest())
    assert thumbnail.problem == ""
    start, _, text = thumbnail.address.partition(",")
    assert start == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize(("size", "shown"), [((400, 100), (200, 50)), ((30, 20), (30, 20)), ((1000, 1), (200, 1))])
def test_draw_thumbnail_keeps_the_proportions_and_never_grows(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    thumbnail = read_thumbnail(tmp_path / "a.png", encode(Image.new("RGB", size, (200, 60, 40))))
    assert thumbnail.size == shown
    assert max(shown) <= THUMBNAIL_SIDE
    np.testing.assert_allclose(np.asarray(thumbnail).mean(axis=(0, 1)), (200, 60, 40), atol=3)


def test_draw_thumbnail_shows_what_training_saw(tmp_path: Path) -> None:
    # Half of it is red and see-through, which extraction lays over white.
    picture = Image.new("RGBA", (60, 60), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (30, 0, 60, 60))
    values = np.asarray(read_thumbnail(tmp_path / "a.png", encode(picture)), np.float64)
    np.testing.assert_allclose(values[:, :20].mean(axis=(0, 1)), 255, atol=4)
    np.testing.assert_allclose(values[:, 40:].mean(axis=(0, 1)), (0, 0, 255), atol=8)


def test_draw_thumbnail_of_a_picture_that_changed_is_gone_or_damaged_says_why(tmp_path: Path) -> None:
    data = encode(draw_picture("cats", 1))
    content_hash = hashlib.sha256(data).digest()
    (tmp_path / "changed.png").write_bytes(encode(draw_picture("cats", 2)))
    assert draw_thumbnail(tmp_path / "changed.png", content_hash).problem == "changed since it was extracted"
    gone = draw_thumbnail(tmp_path / "gone.png", content_hash)
    assert (gone.address, gone.problem) == ("", "an unreadable file (No such file or directory)")
    (tmp_path / "empty.png").write_bytes(b"")
    assert draw_thumbnail(tmp_path / "empty.png", hashlib.sha256(b"").digest()).problem == "an empty file"


def test_thumbnail_is_drawn_under_a_locale_that_has_no_bytes_for_its_name(tmp_path: Path) -> None:
    path = tmp_path / "Größe 猫.png"
    path.write_bytes(encode(draw_picture("cats", 1)))
    code = f"""
import hashlib, sys
from pathlib import Path
from train_head.report.gallery import draw_thumbnail
assert sys.getfilesystemencoding() == "ascii"
path = Path({ascii(str(path))})
found = draw_thumbnail(path, bytes.fromhex("{hashlib.sha256(path.read_bytes()).hexdigest()}"))
print(found.problem or found.address[:10])
"""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | plain, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("data:image\n", 0), done.stderr


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png"])
def test_thumbnail_of_a_name_that_no_file_can_have_says_so(tmp_path: Path, name: str) -> None:
    assert draw_thumbnail(tmp_path / name, b"") == Thumbnail("", "no file can have its name")
