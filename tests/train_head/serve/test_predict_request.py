"""`POST /predict`: pictures of all kinds, and bodies that are no pictures."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from base.terminal import Console
from tests.inputs.makers import encode_heic, encode_jpeg_xl, save_frames, save_turned
from tests.pictures import COLOURS, draw_picture, encode
from tests.train_head.serve.servers import FAR, Client, encode_form, make_model, start_server
from tests.train_head.synthetic import CLASSES
from tests.without_decoders import hide_decoders
from train_head.export.open import open_model
from train_head.predict.config import PredictConfig
from train_head.predict.run import predict_pictures
from train_head.serve.uploads import Limits

GREY = encode(Image.new("RGB", (20, 20), (128, 128, 128)))


def save(label: str, number: int = 0) -> bytes:
    return encode(draw_picture(label, number))


def write_huge_header() -> bytes:
    """Write a PNG whose header declares 30,000 x 30,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "html": lambda: b"<!doctype html><html><body>Not found</body></html>",
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "truncated": lambda: save("cats")[:2000],
    "zeros": lambda: bytes(5000),
    "30,000 x 30,000 pixels": write_huge_header,
    "text": lambda: b"not a picture\n",
}


def test_predict_of_a_raw_body_returns_the_prediction(client: Client) -> None:
    answer = client.predict(save("dogs"), content_type="image/png")
    (found,) = answer.json["predictions"]
    assert (answer.status, answer.json["failed"]) == (200, [])
    assert (found["index"], found["image"], found["label"], found["is_outlier"]) == (0, "", "dogs", False)
    assert not found["is_unsure"]
    assert list(found["probabilities"]) == CLASSES
    assert found["probabilities"]["dogs"] == found["probability"] > 0.9
    assert sum(found["probabilities"].values()) == pytest.approx(1)


def test_predict_of_a_form_keeps_the_order_and_lists_bad_pictures(client: Client) -> None:
    files = [("a.png", save("owls")), ("b.jpg", b"no picture"), ("../ü 😀.png", save("cats"))]
    answer = client.predict_form(files)
    assert answer.status == 200
    assert [(each["index"], each["image"], each["label"]) for each in answer.json["predictions"]] == [
        (0, "a.png", "owls"),
        (2, "../ü 😀.png", "cats"),
    ]
    assert [(each["index"], each["image"]) for each in answer.json["failed"]] == [(1, "b.jpg")]


@pytest.mark.parametrize("kind", BAD)
def test_predict_of_no_picture_is_unprocessable(client: Client, kind: str) -> None:
    answer = client.predict(BAD[kind]())
    assert answer.status == 422
    assert answer.json.keys() == {"error", "where", "expected", "got", "advice", "predictions", "failed"}
    assert answer.json["got"] == answer.json["failed"][0]["reason"]
    assert client.predict_form([("picture.jpg", BAD[kind]())]).json["where"] == "picture.jpg"


@pytest.mark.parametrize("write", [encode_heic, encode_jpeg_xl, partial(encode, image_format="AVIF")])
def test_predict_of_formats_of_telephones_and_browsers_classifies_them(
    client: Client, write: Callable[[Image.Image], bytes]
) -> None:
    data = write(Image.new("RGB", (90, 80), COLOURS["owls"]))
    assert client.predict(data).labels == ["owls"]
    with hide_decoders():
        assert "`pip install" in client.predict(data).json["got"]


def test_predict_of_an_animation_classifies_the_first_frame(client: Client) -> None:
    assert client.predict(save_frames("GIF")).labels == ["dogs"]


def test_predict_of_a_picture_unlike_all_classes_marks_it(client: Client) -> None:
    (found,) = client.predict(GREY).json["predictions"]
    assert found["is_outlier"]
    assert found["distance"] > FAR


def test_predict_between_two_classes_is_unsure(client: Client) -> None:
    between = tuple(round((a + b) / 2) for a, b in zip(COLOURS["cats"], COLOURS["dogs"], strict=True))
    (found,) = client.predict(encode(Image.new("RGB", (9, 9), between))).json["predictions"]
    assert found["is_unsure"]
    assert found["margin"] < 0.2


def test_predict_agrees_with_the_command(tiny_two: Path, tmp_path: Path, quiet: Console) -> None:
    files = {
        "turned.jpg": save_turned(6),
        "wide.png": encode(draw_picture("dogs", 3, (301, 17))),
        "grey.tif": encode(Image.linear_gradient("L").convert("I;16"), "TIFF"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    expected = {found.image.name: found for found in predict_pictures(PredictConfig([tmp_path], tiny_two), quiet)}
    with start_server(open_model(tiny_two)) as client:
        answer = client.predict_form([*files.items()])
    for found in answer.json["predictions"]:
        assert found["label"] == expected[found["image"]].label
        assert found["probabilities"] == pytest.approx(expected[found["image"]].probabilities, abs=1e-6)
    assert len(answer.json["predictions"]) == len(files)


def test_predict_of_several_labels_returns_those_above_their_thresholds() -> None:
    model = make_model(is_multi_label=True, thresholds=[0.001, 0.99, 0.001])
    with start_server(model) as client:
        (found,) = client.predict(encode(Image.new("RGB", (9, 9), (120, 130, 40)))).json["predictions"]
    assert set(found["labels"]) == {"cats", "owls"}


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "application/x-www-form-urlencoded"])
def test_predict_of_another_content_type_is_refused(client: Client, content_type: str) -> None:
    answer = client.predict(save("cats"), content_type=content_type)
    assert (answer.status, answer.json["where"]) == (415, "Content-Type")


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body[:-20],
        lambda body: body[: len(body) // 2],
        lambda body: b"",
        lambda body: body.replace(b"name=", b"nome="),
        lambda body: body.replace(b"\r\nContent-Disposition", b"\r\n" + b"X: y\r\n" * 100 + b"Content-Disposition"),
        lambda body: body.replace(b"filename=", b"file="),
    ],
)
def test_predict_of_a_damaged_form_is_refused(client: Client, edit: Callable[[bytes], bytes]) -> None:
    body, content_type = encode_form([("a.png", save("cats")), ("b.png", save("cats"))])
    assert client.send("POST", "/predict", edit(body), content_type=content_type).status == 400


def test_predict_of_a_form_without_a_boundary_or_a_file_is_refused(client: Client) -> None:
    body, content_type = encode_form([("", b"")])
    assert client.send("POST", "/predict", body, content_type=content_type).status == 400
    assert client.send("POST", "/predict", body, content_type="multipart/form-data").status == 400


def test_predict_of_too_many_files_is_refused(client: Client) -> None:
    assert client.predict_form([("a.png", GREY)] * Limits().max_files).status == 200
    assert client.predict_form([("a.png", GREY)] * (Limits().max_files + 1)).status == 413
    assert client.predict_form([("a.png", b"")] * 5000).status == 413
