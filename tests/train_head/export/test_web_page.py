"""The page of the web format in headless Chromium, and its runtime under Node.js."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.inputs.makers import encode_heic, encode_jpeg_xl
from tests.pictures import draw_pixels, encode
from train_head.data.batches import Array
from train_head.export.formats import FORMATS, list_files
from train_head.export.outputs import Outputs
from train_head.export.result import ExportResult

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

Serve = Callable[..., str]


class PlainHandler(SimpleHTTPRequestHandler):
    """Server that knows no type but those of HTML, CSS and .js files, as old servers do."""

    def guess_type(self, path: object) -> str:
        known = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
        return known.get(Path(str(path)).suffix, "application/octet-stream")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def serve(web_folder: Path, tmp_path: Path) -> Iterator[Serve]:
    """Function that serves the page from a subfolder, with changed values in model.json, and returns its address."""
    root = tmp_path / "site"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(PlainHandler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def start(**changes: object) -> str:
        page = shutil.copytree(web_folder, root / "a folder" / "web", dirs_exist_ok=True)
        values = json.loads((page / "model.json").read_text())
        (page / "model.json").write_text(json.dumps(values | changes))
        return f"http://127.0.0.1:{server.server_port}/a%20folder/web/"

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


def predict(page: Page, data: bytes) -> Any:
    """Classify the bytes of a file with the page's function for programs."""
    script = "data => headstart.predict(new Blob([Uint8Array.from(atob(data), c => c.charCodeAt(0))]))"
    return page.evaluate(script, base64.b64encode(data).decode())


def choose(page: Page, data: bytes) -> None:
    """Choose a file on the page, and wait for the answer."""
    page.set_input_files("#file", {"name": "picture", "mimeType": "image/png", "buffer": data})
    page.wait_for_selector("#verdict:visible, #error:not(:empty)")


def open_page(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#choose:visible")


def test_export_run_writes_the_page_with_its_runtime(web_result: ExportResult, web_folder: Path) -> None:
    (check,) = web_result.checks
    assert check.num_pictures == 64
    assert check.max_difference <= 1e-4
    assert sorted(
        str(path.relative_to(web_folder.parent)) for path in web_folder.rglob("*") if path.is_file()
    ) == list_files(FORMATS[check.format].names)


def test_page_gives_the_probabilities_of_keras_on_64_pictures(
    page: Page, serve: Serve, run_keras: Callable[[Array], Outputs]
) -> None:
    open_page(page, serve())
    for number in range(64):
        pixels = draw_pixels(20 + 5 * number, 300 - 4 * number, number)
        found, expected = predict(page, encode(Image.fromarray(pixels))), run_keras(pixels[None].astype(np.float32))
        np.testing.assert_allclose([*found["probability"].values()], expected.probabilities[0], atol=1e-3)
        assert expected.distances is not None
        np.testing.assert_allclose(found["distance"], expected.distances[0], rtol=1e-3)
        assert (found["height"], found["width"]) == pixels.shape[:2]


@pytest.mark.parametrize("kind", ["jpeg", "turned", "alpha", "palette", "gray", "avif", "avif_turned", "rgb", "rgba"])
def test_page_decodes_a_picture_as_training_does(
    page: Page, serve: Serve, run_keras: Callable[[Array], Outputs], kind: str
) -> None:
    from extract.decoding.decode import decode_image

    open_page(page, serve())
    picture = Image.fromarray(draw_pixels(61, 90))
    clear = Image.fromarray(draw_pixels(61, 90, channels=4))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "jpeg": encode(picture, "JPEG"),
        "turned": encode(picture, exif=exif),
        "alpha": encode(clear),
        "palette": encode(picture.quantize(16), "GIF"),
        "gray": encode(picture.convert("L")),
        "avif": encode(picture, "AVIF"),
        "avif_turned": encode(picture, "AVIF", exif=exif),
    }
    if kind in files:
        found, pixels = predict(page, files[kind]), decode_image(files[kind])
    else:
        source = picture if kind == "rgb" else clear
        script = "([data, width, height]) => headstart.predict({data: Uint8Array.from(data), width, height})"
        found = page.evaluate(script, [np.asarray(source).ravel().tolist(), *source.size])
        pixels = decode_image(encode(source))
    expected = run_keras(pixels[None].astype(np.float32))
    np.testing.assert_allclose([*found["probability"].values()], expected.probabilities[0], atol=1e-3)


def test_page_shows_a_picture_with_its_probabilities_and_works_offline_after_loading(page: Page, serve: Serve) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    address = serve(outlier_threshold=None, classes=["<script>alert(1)</script>", "🐱 قطط"])
    open_page(page, address)
    page.context.set_offline(True)
    choose(page, encode(Image.fromarray(draw_pixels(40, 60))))
    assert page.inner_text("#error") == ""
    names = page.locator("#bars .name").all_inner_texts()
    assert set(names) == {"<script>alert(1)</script>", "🐱 قطط"}
    assert page.evaluate("document.getElementById('picture').naturalWidth") == 60
    shares = [float(text.strip("<>% ")) for text in page.locator("#bars .share").all_inner_texts()]
    assert abs(sum(shares) - 100) <= 0.2
    assert shares == sorted(shares, reverse=True)
    assert [url for url in requests if not url.startswith((address, "blob:", "data:"))] == []


@pytest.mark.parametrize(("event", "field"), [("drop", "dataTransfer"), ("paste", "clipboardData")])
def test_page_takes_a_picture_that_is_dropped_or_pasted(page: Page, serve: Serve, event: str, field: str) -> None:
    open_page(page, serve())
    script = """([event, field, data]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], "picture.png"));
      document.body.dispatchEvent(Object.assign(new Event(event, { bubbles: true }), { [field]: transfer }));
    }"""
    data = base64.b64encode(encode(Image.fromarray(draw_pixels(40, 60)))).decode()
    page.evaluate(script, [event, field, data])
    page.wait_for_selector("#verdict:visible")
    assert page.inner_text("#status").startswith(page.inner_text("#verdict"))


def test_module_loads_the_model_in_another_page(page: Page, serve: Serve, tmp_path: Path) -> None:
    address = serve()
    (tmp_path / "site" / "picture.png").write_bytes(encode(Image.fromarray(draw_pixels(40, 60))))
    page.goto(address + "../../")
    script = """async (module) => {
      const { load } = await import(module), shares = [];
      const model = await load({ onProgress: (share) => shares.push(share) });
      const response = await fetch("picture.png");
      const bitmap = await createImageBitmap(await response.clone().blob());
      return [shares, await model.predict(await response.blob()), await model.predict(bitmap)];
    }"""
    shares, of_file, of_bitmap = page.evaluate(script, address + "headstart.js")
    assert shares[-1] == 1
    assert of_bitmap == of_file


def test_page_of_a_far_picture_shows_none_of_these(page: Page, serve: Serve) -> None:
    open_page(page, serve(outlier_threshold=1e-6))
    choose(page, encode(Image.fromarray(draw_pixels(40, 60))))
    assert page.inner_text("#verdict") == "None of these"
    assert page.locator("#bars .chosen").count() == 0


def test_page_of_several_labels_chooses_those_above_their_thresholds(page: Page, serve: Serve) -> None:
    open_page(page, serve(outlier_threshold=None, is_multi_label=True, thresholds=[0.0, 1.0]))
    found = predict(page, encode(Image.fromarray(draw_pixels(40, 60))))
    assert found["labels"] == ["cats"]
    choose(page, encode(Image.fromarray(draw_pixels(40, 60))))
    assert page.inner_text("#verdict") == "cats"
    assert page.locator("#bars .chosen .name").all_inner_texts() == ["cats"]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Encode a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encode_header(width: int, height: int, bits: int = 8) -> bytes:
    """Encode a PNG file that declares a size, with almost no data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html><title>no picture</title>",
        encode(Image.new("RGB", (90, 60)), "JPEG")[:200],
        encode(Image.fromarray(draw_pixels(90, 60)))[:2000],
        encode_header(30_000, 30_000),
        encode_header(20_000, 1),
        encode(Image.new("RGB", (9, 6)), "AVIF").replace(
            b"ispe" + bytes(7) + b"\x09", b"ispe" + bytes(5) + b"\xff\xff\xff"
        ),
        encode(Image.new("RGB", (9, 6)), "AVIF")[:-20],
        encode_heic(Image.new("RGB", (9, 6))),
        encode_jpeg_xl(Image.new("RGB", (9, 6))),
        encode(Image.new("RGB", (9, 6)), "TIFF"),
        encode(Image.new("RGBA", (9, 6))),
    ],
    ids=[
        "empty",
        "html",
        "jpeg_cut",
        "png_cut",
        "oversized",
        "wide",
        "avif_large",
        "avif_cut",
        "heic",
        "jpeg_xl",
        "tiff",
        "clear",
    ],
)
def test_page_of_an_unusable_picture_shows_the_reason_and_takes_the_next(page: Page, serve: Serve, data: bytes) -> None:
    open_page(page, serve())
    choose(page, data)
    assert page.inner_text("#error")
    assert page.is_hidden("#result")
    with pytest.raises(Exception, match="PictureError"):
        predict(page, data)
    choose(page, encode(Image.fromarray(draw_pixels(40, 60))))
    page.wait_for_selector("#verdict:visible")
    assert page.inner_text("#error") == ""


def test_page_with_samples_that_browsers_round_refuses_16_bits(page: Page, serve: Serve) -> None:
    data = encode(Image.fromarray(np.zeros((6, 9), np.uint16)))
    open_page(page, serve())
    assert predict(page, data)["width"] == 9
    open_page(page, serve(sample_bits=12))
    with pytest.raises(Exception, match="PictureError"):
        predict(page, data)


def test_page_in_a_browser_that_changes_pixels_refuses_pictures(page: Page, serve: Serve, tmp_path: Path) -> None:
    address = serve()
    worker = tmp_path / "site" / "a folder" / "web" / "worker.js"
    noise = "OffscreenCanvasRenderingContext2D.prototype.getImageData = (x, y, w, h) => new ImageData(w, h);"
    worker.write_text(worker.read_text() + noise)
    open_page(page, address)
    with pytest.raises(Exception, match="PictureError"):
        predict(page, encode(Image.fromarray(draw_pixels(40, 60))))


def test_page_classifies_a_picture_of_the_camera(page: Page, serve: Serve) -> None:
    open_page(page, serve())
    page.click("#start-camera")
    page.wait_for_selector("#take:visible")
    page.click("#take")
    page.wait_for_selector("#verdict:visible")
    page.click("#stop")
    assert page.is_hidden("#camera")


def test_page_with_a_damaged_model_or_without_a_server_shows_a_message(
    page: Page, serve: Serve, web_folder: Path, tmp_path: Path
) -> None:
    address = serve()
    model = tmp_path / "site" / "a folder" / "web" / "model.tflite"
    model.write_bytes(model.read_bytes()[:1000])
    page.goto(address)
    page.wait_for_selector("#error:not(:empty)")
    assert page.is_hidden("#choose")
    page.goto((web_folder / "index.html").as_uri())
    page.wait_for_selector("#unserved:visible")
