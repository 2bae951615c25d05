"""The command `serve`: its errors, and its end by a signal."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

from base.errors import HeadstartError, UsageError
from tests.commands import run_command
from tests.errors import raises
from tests.pictures import draw_picture, encode
from tests.systems import HANG_S
from tests.train_head.serve.servers import Answer, Client
from tests.train_head.training import ROOT
from train_head.serve.address import format_address, open_socket

SERVE = "train_head.serve.__main__"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_signal_ends_the_server_after_the_requests_in_progress(number: signal.Signals, status: int) -> None:
    command = [sys.executable, "-m", "tests.train_head.serve.child", "--model", "none", "--port", "0", "--json"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdin
    assert process.stderr
    address = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stderr.readline())
    assert address
    client, answers = Client(int(address[1])), list[Answer]()
    thread = threading.Thread(target=lambda: answers.append(client.predict(encode(draw_picture("owls", 1)))))
    thread.start()
    while not client.send("GET", "/health").json["requests"]:
        pass
    process.send_signal(number)
    process.stdin.write("\n")
    process.stdin.flush()
    thread.join()
    out, err = process.communicate(timeout=HANG_S)
    assert [answer.labels for answer in answers] == [["owls"]]
    assert (process.returncode, err) == (status, "")
    assert json.loads(out) == {"address": address[0], "num_pictures": 1}


def test_port_in_use_is_a_usage_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run_command(SERVE, "--model", "none", "--port", port, "--json")
    assert (result.status, result.json["where"]) == (2, "--port")


@pytest.mark.unit
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_address_of_the_network_needs_permission(host: str) -> None:
    with raises(UsageError, where="--host"):
        open_socket(host, 0, allow_network=False)


@pytest.mark.unit
@pytest.mark.parametrize("host", ["no such host", "192.0.2.1", "x" * 500])
def test_address_of_another_computer_is_a_usage_error(host: str) -> None:
    with raises(UsageError, where="--host"):
        open_socket(host, 0, allow_network=True)


@pytest.mark.unit
def test_refused_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "socket.socket.bind", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with raises(HeadstartError, where="127.0.0.1:80"):
        open_socket("127.0.0.1", 80, allow_network=False)


@pytest.mark.unit
@pytest.mark.parametrize(("host", "start"), [("localhost", "http://127.0.0.1:"), ("127.0.0.1", "http://127.0.0.1:")])
def test_port_zero_chooses_a_free_port(host: str, start: str) -> None:
    with open_socket(host, 0, allow_network=False) as listener:
        assert format_address(listener) == f"{start}{listener.getsockname()[1]}/"


def test_network_address_prints_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    service, server = mock.Mock(num_pictures=0), mock.Mock()
    monkeypatch.setattr("train_head.serve.run.build_service", lambda *_: service)
    monkeypatch.setattr("train_head.serve.server.build_server", lambda *_: server)
    network = ["--host", "0.0.0.0", "--allow-network"]
    for options, num_warnings in (([], 0), (["--allow-network"], 0), (network, 1)):
        result = run_command(SERVE, "--model", "none", "--port", 0, *options)
        assert (result.status, len(result.warnings)) == (0, num_warnings)
    assert server.run.call_count == 3


def test_open_shows_the_page_in_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("train_head.serve.run.build_service", lambda *_: mock.Mock(num_pictures=0))
    monkeypatch.setattr("train_head.serve.server.build_server", lambda *_: mock.Mock())
    result = run_command(SERVE, "--model", "none", "--port", 0, "--open", "--json")
    assert opened == [result.json["address"]]


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["--model", "missing.keras"], "missing.keras"),
        (["--model", "notes.txt"], "notes.txt"),
        (["--model", "missing.keras", "--store", "store"], "--store"),
        (["--model", "missing.keras", "--images", "images"], "--images"),
    ],
)
def test_wrong_arguments_are_usage_errors(
    arguments: list[str], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("notes")
    result = run_command(SERVE, *arguments, "--port", 0, "--json")
    assert (result.status, result.json["where"]) == (2, where)


def test_damaged_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"no model")
    result = run_command(SERVE, "--model", tmp_path / "model.keras", "--port", 0, "--json")
    assert (result.status, result.json["where"]) == (1, str(tmp_path / "model.keras"))


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "python_multipart"])
def test_missing_extra_is_a_usage_error(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base.errors.find_spec", lambda name: None if name == package else name)
    result = run_command(SERVE, "--model", "none", "--json")
    assert result.status == 2
    assert "headstart[serve]" in result.json["advice"]
