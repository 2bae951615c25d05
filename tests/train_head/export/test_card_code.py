"""The code in a model card for JavaScript and C++, with packages of npm and the compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.train_head.export.cards import expect_output, format_odd_readme, list_blocks, parse_output
from tests.train_head.export.conftest import Exported
from train_head.export.config import Dtype, Format
from train_head.export.convert import build_function
from train_head.export.description import ModelDescription
from train_head.export.formats import Source, import_format
from train_head.export.load import load_export

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

Odd = tuple[Path, ModelDescription]
STB_IMAGE = """
#include <cstdlib>
#include <fstream>
static unsigned char* stbi_load(const char* path, int* width, int* height, int*, int) {
    std::ifstream file(path, std::ios::binary);
    int largest;
    char magic[2];
    file.read(magic, 2) >> *width >> *height >> largest;
    file.get();
    unsigned char* bytes = static_cast<unsigned char*>(std::malloc(3 * *width * *height));
    file.read(reinterpret_cast<char*>(bytes), 3 * *width * *height);
    return bytes;
}
"""
"""Replacement for stb_image.h, which is no package: it reads PPM, which has the pixels themselves."""


def assert_same(output: str, expected: str, tolerance: float = 1e-5) -> None:
    """Assert that printed classes are equal, in the same order, and that their probabilities are close."""
    # JavaScript prints a byte that is not UTF-8 as the replacement character.
    found, wanted = (parse_output(re.sub("[\udc80-\udcff]", "\ufffd", text)) for text in (output, expected))
    assert [label for _, label in found] == [label for _, label in wanted]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=tolerance)


def save_pixels(folder: Path) -> None:
    """Save the pixels that Pillow decodes as picture.jpg in a format without loss: decoders of JPEG differ by 1."""
    picture = Image.open(folder / "picture.jpg").convert("RGB")
    picture.save(folder / "picture.ppm")
    picture.save(folder / "picture.png")


@pytest.fixture
def folder(odd: Odd, tmp_path: Path) -> Path:
    """Copy of the tiny export."""
    return shutil.copytree(odd[0], tmp_path / "export")


def test_node_code_prints_the_same_as_predict(odd: Odd, folder: Path, exported: Exported, early_run: Path) -> None:
    readme = format_odd_readme(odd, exported, early_run)
    (code,) = list_blocks(readme, "js").values()
    (packages,) = re.findall(r"`npm install (.*?)`", readme)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder)]
    subprocess.run(["npm", "install", *options, *packages.split()], check=True)
    (folder / "predict.mjs").write_text(code)
    done = subprocess.run(["node", "predict.mjs"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(done.stdout, expect_output(folder / "model.keras", odd[1]), 1e-3)


@pytest.mark.parametrize("each", [Format.OPENVINO, Format.ONNX])
def test_cpp_code_prints_the_same_as_predict(
    each: Format, odd: Odd, folder: Path, exported: Exported, early_run: Path
) -> None:
    (code,) = list_blocks(format_odd_readme(odd, exported, early_run, [each]), "cpp").values()
    save_pixels(folder)
    (folder / "stb_image.h").write_text(STB_IMAGE)
    (folder / "predict.cpp").write_text(code.replace("picture.jpg", "picture.ppm"))
    spec = find_spec("openvino")
    assert spec
    assert spec.origin
    package = Path(spec.origin).parent
    (library,) = (package / "libs").glob("libopenvino.so.*")
    paths = [f"-I{package / 'include'}", str(library), f"-Wl,-rpath,{package / 'libs'}"]
    subprocess.run(["g++", "-std=c++17", "-Wall", "predict.cpp", *paths, "-o", "predict"], cwd=folder, check=True)
    done = subprocess.run([folder / "predict"], cwd=folder, capture_output=True, check=True)
    values = re.findall(rb"^(\d\.\d{6}) ", done.stdout, re.MULTILINE)
    lines = (folder / "labels.txt").read_bytes().splitlines()
    assert [line.split(b" ", 1)[1] for line in done.stdout.splitlines()] == lines
    wanted = {label: value for value, label in parse_output(expect_output(folder / "model.keras", odd[1]))}
    expected = [wanted[label] for label in odd[1].card.classes]
    assert [float(value) for value in values] == pytest.approx(expected, abs=1e-4)


def test_browser_code_prints_the_same_as_predict(
    odd: Odd, folder: Path, exported: Exported, early_run: Path, page: Page
) -> None:
    description = odd[1]
    source = Source(build_function(load_export(folder / "model.keras")[1]), description, Dtype.FLOAT32)
    import_format(Format.WEB).convert(source, folder)
    (code,) = list_blocks(format_odd_readme((folder, description), exported, early_run, [Format.WEB]), "html").values()
    (folder / "index.html").write_text(f"<!doctype html><meta charset=utf-8>{code}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    lines: list[str] = []
    page.on("console", lambda message: lines.append(message.text))
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_event("console", lambda _: "none of these" in lines, timeout=60_000)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert_same("".join(f"{line}\n" for line in lines), expect_output(folder / "model.keras", description), 1e-3)
