"""The runtime of the web format under Node.js; needs npm, as the page does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError
from extract.pixels import resize_pixels
from tests.errors import raises
from tests.pictures import draw_pixels
from train_head.data.batches import Array
from train_head.export.formats import web
from train_head.export.outputs import Outputs

pytestmark = pytest.mark.browser


def test_load_gives_the_outputs_of_keras_under_node(web_folder: Path, run_keras: Callable[[Array], Outputs]) -> None:
    run = web.load(web_folder)
    for number, size in enumerate([(75, 75), (1, 1), (3, 500), (200, 161)]):
        pixels = draw_pixels(*size, number)[None].repeat(2, axis=0).astype(np.float32)
        found, expected = run(pixels), run_keras(pixels)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
        assert found.distances is not None
        assert expected.distances is not None
        np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-3)


def test_load_runs_no_script_of_the_folder(web_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(web_folder, tmp_path / "web")
    for script in copy.rglob("*.js"):
        script.write_text("throw new Error('run')")
    assert web.load(copy)(np.zeros((1, 5, 5, 3), np.float32)).probabilities.shape == (1, 2)


@pytest.mark.parametrize("name", ["model.tflite", "model.json"])
def test_load_of_a_damaged_file_is_refused(web_folder: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(web_folder, tmp_path / "web")
    (copy / name).write_bytes((copy / name).read_bytes()[:60])
    with raises(HeadstartError, where=copy / name):
        web.load(copy)


def test_load_with_a_full_temporary_folder_names_it(
    web_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with raises(HeadstartError, where=tmp_path / "missing"):
        web.load(web_folder)


@pytest.mark.parametrize(("height", "width", "size"), [(97, 211, 75), (3, 2000, 150), (1, 1, 10), (1500, 3000, 299)])
def test_resize_in_javascript_equals_tensorflow_bit_for_bit(
    web_folder: Path, tmp_path: Path, height: int, width: int, size: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    script = (
        f"import {{ resize }} from '{(web_folder / 'pixels.js').as_uri()}'; import fs from 'node:fs';"
        f"const data = fs.readFileSync('pixels'), width = {width}, height = {height};"
        "const read = (top, count) => data.subarray(3 * width * top, 3 * width * (top + count));"
        f"fs.writeFileSync('resized', new Uint8Array(resize({{ width, height, read }}, {size}).buffer));"
    )
    subprocess.run([web.find_node(), "--input-type=module", "-e", script], cwd=tmp_path, check=True)
    resized = np.fromfile(tmp_path / "resized", np.float32).reshape(size, size, 3)
    np.testing.assert_array_equal(resized, resize_pixels(pixels, size))
