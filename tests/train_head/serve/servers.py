"""Real servers on free ports, with a model that classifies colours, and requests to them."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from base.terminal import Console, ConsoleOptions
from extract.decoding.policy import DecodePolicy
from tests.pictures import COLOURS
from tests.systems import HANG_S
from tests.train_head.synthetic import CLASSES, make_example, make_small_card
from train_head.data.batches import Array
from train_head.export.config import Format
from train_head.export.open import ExportedModel
from train_head.export.outputs import Outputs
from train_head.serve.address import HostNames, open_socket
from train_head.serve.app import Service
from train_head.serve.classify import Classifier
from train_head.serve.config import ServeConfig
from train_head.serve.neighbours import TrainingPictures
from train_head.serve.server import build_server
from train_head.serve.uploads import Limits

HOST = "127.0.0.1"
FAR = 60.0**2
"""Largest squared distance of a mean colour from that of a class."""


def compare_colours(pixels: Array) -> Outputs:
    """Classify pictures by their mean colours, as a model of three classes does."""
    means = pixels.mean(axis=(1, 2))
    squares = np.stack([np.sum((means - COLOURS[label]) ** 2, axis=1) for label in CLASSES], axis=1)
    scores = np.exp(-(squares - squares.min(axis=1, keepdims=True)) / 3000)
    shares = scores / scores.sum(axis=1, keepdims=True)
    return Outputs(shares.astype(np.float32), squares.min(axis=1).astype(np.float32), means.astype(np.float32))


def make_model(function: Callable[[Array], Outputs] = compare_colours, /, **card: Any) -> ExportedModel:
    found = replace(make_small_card(3), outlier_threshold=FAR, **card)
    # A format without TensorFlow, which takes seconds to import.
    return ExportedModel(Path("model.onnx"), Format.ONNX, found, None, function)


def make_training(images: Path, paths: Sequence[str]) -> TrainingPictures:
    """Make training pictures whose features are the colours of their classes, with a little noise."""
    examples = [make_example(path, hashlib.sha256((images / path).read_bytes()).digest()) for path in paths]
    noise = np.random.default_rng(0).normal(0, 2, (len(paths), 3))
    features = np.array([COLOURS[example.label] for example in examples]) + noise
    return TrainingPictures(features.astype(np.float16), examples, images, DecodePolicy())


@dataclass(frozen=True)
class Answer:
    """Response of a server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @cached_property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def labels(self) -> list[str]:
        return [found["label"] for found in self.json["predictions"]]


class Client:
    """Sends requests to a server."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/"

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request; underscores in the names of headers become hyphens."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=HANG_S)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, given)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def predict(self, picture: Any, **headers: str) -> Answer:
        return self.send("POST", "/predict", picture, **{"content_type": "application/octet-stream", **headers})

    def predict_form(self, files: Sequence[tuple[str, bytes]]) -> Answer:
        body, content_type = encode_form(files)
        return self.send("POST", "/predict", body, content_type=content_type)

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        with socket.create_connection((HOST, self.port), timeout=HANG_S) as connection:
            yield connection


def encode_form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """Return the body and the Content-Type of a form with files."""
    boundary, parts = uuid.uuid4().hex, []
    for name, data in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@contextmanager
def start_server(
    model: ExportedModel | None = None, limits: Limits | None = None, training: TrainingPictures | None = None
) -> Iterator[Client]:
    """Run a server in a thread until the end of the block."""
    limits = limits or Limits()
    classifier = Classifier(model or make_model(), DecodePolicy(), ServeConfig(Path("model.onnx")), training)
    service = Service(classifier, limits, Console(ConsoleOptions(quiet=True)))
    with open_socket(HOST, 0, allow_network=False) as listener:
        server = build_server(service, HostNames(is_local=True))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield Client(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
