"""The page in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.inputs.makers import encode_heic
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.serve.servers import make_model, make_training, start_server
from tests.train_head.serve.test_neighbours import PATHS
from train_head.serve.uploads import Limits

if TYPE_CHECKING:
    from playwright.sync_api import FilePayload, Locator, Page

pytestmark = pytest.mark.browser
SCRIPT = "<script>document.title = 'attacked'</script><img src=x onerror=\"document.title = 'attacked'\">"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Page of a server with training pictures, uploads of at most 100 kB, and a class named like a script."""
    images = tmp_path_factory.mktemp("images")
    fill_folder(images, {f"train/{label}": 4 for label in ("cats", "dogs", "owls")})
    (images / PATHS[0]).unlink()
    (images / PATHS[0]).write_bytes(b"damaged")
    training = make_training(images, PATHS)
    with start_server(make_model(classes=["cats", "dogs", SCRIPT]), Limits(max_bytes=100_000), training) as client:
        yield client.address


def make_file(name: str, data: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": data}


def open_page(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("html[data-ready]")


def add_files(page: Page, *files: FilePayload) -> list[Locator]:
    """Choose files, and return their cards in the same order when all have an answer."""
    page.locator("#files").set_input_files(files)
    page.wait_for_selector(".card")
    page.wait_for_selector("[aria-busy]", state="detached")
    return page.locator(".card").all()[: len(files)][::-1]


def read(card: Locator, selector: str) -> str:
    return card.locator(selector).first.inner_text()


def test_page_shows_predictions_bad_files_and_pictures_unlike_all_classes(page: Page, address: str) -> None:
    open_page(page, address)
    grey = encode(Image.new("RGB", (20, 20), (128, 128, 128)))
    good, corrupt, large, far = add_files(
        page,
        make_file("good.png", encode(draw_picture("dogs", 1))),
        make_file("corrupt.png", b"<!doctype html>"),
        make_file("large.png", bytes(100_001)),
        make_file("far.png", grey),
    )
    assert read(good, ".verdict").startswith("dogs ")
    assert good.locator(".bars .chosen").inner_text().split()[0] == "dogs"
    assert good.locator(".nearest img").count() > 0
    assert read(corrupt, ".verdict") == read(large, ".verdict") == "Not classified"
    assert "web page" in read(corrupt, ".note")
    assert "100 kB" in read(large, ".note")
    assert read(far, ".verdict") == "None of these"
    assert far.locator(".bars li").count() == 3
    assert far.locator(".bars .chosen").count() == 0
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".card").count() == 0


def test_page_classifies_a_heic_picture_and_offers_to_choose_one(page: Page, address: str) -> None:
    open_page(page, address)
    (card,) = add_files(page, make_file("phone.heic", encode_heic(draw_picture("dogs", 1))))
    assert read(card, ".verdict").startswith("dogs ")
    assert ".heic" in str(page.get_attribute("#files", "accept")).split(",")


def test_page_replaces_a_missing_thumbnail_by_the_file_name(page: Page, address: str) -> None:
    open_page(page, address)
    (card,) = add_files(page, make_file("cat.png", encode(draw_picture("cats", 1))))
    assert page.get_by_role("status").filter(has_text="cat.png: cats").count() == 1
    card.locator(".nearest .gone").wait_for()
    assert read(card, ".nearest .gone") == "000.jpg"


def test_page_escapes_class_and_file_names(page: Page, address: str) -> None:
    open_page(page, address)
    (card,) = add_files(page, make_file(SCRIPT.replace("/", ""), encode(draw_picture("owls", 1))))
    assert read(card, ".verdict").startswith(SCRIPT)
    assert SCRIPT in page.locator("#classes").inner_text()
    assert page.title() == "Classify pictures"
    assert page.locator("main script, main .card img[src=x]").count() == 0


def test_page_can_be_used_with_the_keyboard(page: Page, address: str) -> None:
    open_page(page, address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    page.evaluate(
        """document.activeElement.addEventListener("click", (event) => {
            event.preventDefault();
            document.body.dataset.opened = "yes";
        })"""
    )
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-opened]")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "camera"


def test_page_classifies_a_picture_of_the_camera(page: Page, address: str) -> None:
    open_page(page, address)
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take a picture").click()
    page.wait_for_selector(".card:not([aria-busy])")
    assert read(page.locator(".card"), ".name") == "photo 1.jpg"
    assert page.locator("#viewfinder").is_hidden()
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_page_classifies_dropped_pictures(page: Page, address: str, tmp_path: Path) -> None:
    open_page(page, address)
    data = list(encode(draw_picture("cats", 2)))
    page.evaluate(
        """(data) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], "dropped.png"));
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
        }""",
        data,
    )
    page.wait_for_selector(".card:not([aria-busy])")
    assert read(page.locator(".card"), ".verdict").startswith("cats ")


def test_page_repeats_a_deferred_request(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.serve.errors.RETRY_AFTER_S", 0.1)
    with start_server(limits=Limits(max_requests=1)) as client:
        open_page(page, client.address)
        cards = add_files(page, *(make_file(f"{n}.png", encode(draw_picture("cats", n))) for n in range(4)))
        assert all(read(card, ".verdict").startswith("cats ") for card in cards)


def test_page_of_a_stopped_server_shows_it(page: Page) -> None:
    with start_server() as client:
        open_page(page, client.address)
    (card,) = add_files(page, make_file("late.png", encode(draw_picture("cats", 1))))
    assert read(card, ".verdict") == "Not classified"


def test_page_requests_nothing_from_other_servers(page: Page, address: str) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    open_page(page, address)
    add_files(page, make_file("dog.png", encode(draw_picture("dogs", 1))))
    assert len(requested) > 4
    assert [url for url in requested if not url.startswith((address, "blob:", "data:"))] == []


@pytest.mark.parametrize(("width", "height"), [(360, 640), (1280, 800)])
def test_page_fits_the_width(page: Page, address: str, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    open_page(page, address)
    add_files(page, make_file("long name " * 12 + ".png", encode(draw_picture("owls", 1))))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_of_another_site_cannot_send_pictures(page: Page, address: str) -> None:
    with start_server() as other:
        open_page(page, other.address)
        found = page.evaluate(
            """async (address) => {
                try { return await (await fetch(address + "predict", {method: "POST", body: "x"})).text(); }
                catch (error) { return error.name; }
            }""",
            address,
        )
    assert found == "TypeError"
