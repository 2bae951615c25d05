"""Limits on requests: size, time, number, and failures of the model."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.pictures import draw_picture, encode
from tests.systems import HANG_S
from tests.train_head.serve.servers import Client, compare_colours, make_model, start_server
from train_head.data.batches import Array
from train_head.export.outputs import Outputs
from train_head.serve.config import ServeConfig
from train_head.serve.uploads import Limits, choose_limits

PICTURE = encode(draw_picture("cats", 1))
HEADERS = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def limited() -> Iterator[Client]:
    """Client of a server with a small limit on bodies."""
    with start_server(limits=Limits(max_bytes=100_000)) as found:
        yield found


def receive(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def is_closed(connection: socket.socket) -> bool:
    """Wait until the server closes a connection."""
    try:
        return not connection.recv(100)
    except ConnectionResetError:
        return True


def test_large_body_is_refused_and_the_client_reads_the_answer(limited: Client) -> None:
    answer = limited.predict(bytes(150_000))
    assert (answer.status, answer.json["where"]) == (413, "body")
    assert limited.predict(PICTURE).status == 200


def test_large_body_is_refused_before_it_is_sent(limited: Client) -> None:
    with limited.connect() as connection:
        connection.sendall(HEADERS + b"Content-Length: 9000000000\r\nExpect: 100-continue\r\n\r\n")
        answer = receive(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


def test_endless_body_is_refused_at_the_limit(limited: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.serve.guard.DISCARD_S", 0.2)

    def send_chunks() -> Iterator[bytes]:
        while True:
            yield bytes(8192)

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        limited.predict(send_chunks())
    assert limited.predict(PICTURE).status == 200


@pytest.mark.parametrize("interval_s", [0.05, 5.0])
def test_slow_body_is_refused(interval_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.serve.guard.DISCARD_S", 0.2)
    found = b""
    with start_server(limits=Limits(upload_s=0.5, pause_s=0.2)) as client, client.connect() as connection:
        connection.sendall(HEADERS + b"Content-Length: 1000\r\n\r\n")
        connection.settimeout(interval_s)
        for _ in range(1000):
            try:
                found = connection.recv(65536)
                break
            except TimeoutError:
                connection.sendall(b"x")
    assert found.startswith(b"HTTP/1.1 408 ")


def test_idle_connection_is_closed(limited: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.serve.server.REQUEST_S", 0.2)
    with limited.connect() as silent, limited.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        for connection in (silent, slow):
            assert is_closed(connection)


def test_connections_above_the_limit_are_closed(limited: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.serve.server.MAX_CONNECTIONS", 3)
    with limited.connect(), limited.connect(), limited.connect(), limited.connect() as fourth:
        assert is_closed(fourth)


def test_hundred_requests_at_once_are_answered_or_deferred() -> None:
    def run_slowly(pixels: Array) -> Outputs:
        time.sleep(0.02)
        return compare_colours(pixels)

    barrier = threading.Barrier(100)
    with start_server(make_model(run_slowly), Limits(max_requests=16)) as client, ThreadPoolExecutor(100) as pool:

        def send(_: int) -> tuple[int, str]:
            barrier.wait()
            answer = client.predict(PICTURE)
            return answer.status, answer.headers.get("retry-after", "")

        found = Counter(pool.map(send, range(100)))
        assert found.keys() <= {(200, ""), (503, "2")}
        assert found[200, ""] >= 16
        assert client.predict(PICTURE).labels == ["cats"]


@pytest.mark.unit
@pytest.mark.parametrize(("max_upload", "held"), [(1, 128_000_000), (1024, 1_024_000_000)])
def test_limits_allow_one_upload_of_the_largest_size(max_upload: int, held: int) -> None:
    limits = choose_limits(ServeConfig(Path("model.keras"), max_upload=max_upload, max_pixels=9))
    assert (limits.max_bytes, limits.max_held_bytes, limits.max_pixels) == (max_upload * 1_000_000, held, 9)


def test_uploads_above_the_memory_for_them_are_deferred() -> None:
    with start_server(limits=Limits(max_held_bytes=30_000)) as client:
        assert client.predict(bytes(60_000)).status == 503
        assert client.predict(PICTURE).status == 200


def test_prediction_that_takes_too_long_is_deferred() -> None:
    release = threading.Event()

    def wait(pixels: Array) -> Outputs:
        release.wait(HANG_S)
        return compare_colours(pixels)

    with start_server(make_model(wait), Limits(predict_s=0.2)) as client:
        assert client.predict(PICTURE).status == 503
        release.set()
        # On a loaded machine, a picture can take longer than the limit.
        assert any(client.predict(PICTURE).status == 200 for _ in range(1000))


def test_failure_of_the_model_is_answered_and_later_requests_work(capsys: pytest.CaptureFixture[str]) -> None:
    failures = iter([True])

    def fail_once(pixels: Array) -> Outputs:
        if next(failures, False):
            raise RuntimeError("no memory")
        return compare_colours(pixels)

    with start_server(make_model(fail_once)) as client:
        answer = client.predict(PICTURE)
        assert (answer.status, answer.json["where"]) == (500, "server")
        assert client.predict(PICTURE).labels == ["cats"]
    assert "Traceback" not in capsys.readouterr().err
