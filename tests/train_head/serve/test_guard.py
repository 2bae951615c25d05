"""Requests of other sites are refused, and responses carry the headers that keep them away."""

from __future__ import annotations

import re

import pytest

from tests.pictures import draw_picture, encode
from tests.train_head.serve.servers import Client
from train_head.serve.address import HostNames
from train_head.serve.guard import SECURITY_HEADERS

PICTURE = encode(draw_picture("cats", 1))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:9000", True),
        ("127.1.2.3", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("localhost.evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@localhost", False),
        ("localhost/evil.example", False),
        ("192.168.1.7:8000", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_host_names_of_a_local_server_are_loopback(host: str, is_allowed: bool) -> None:
    assert HostNames(is_local=True).allow(host) == is_allowed


@pytest.mark.unit
def test_host_names_of_an_open_server_are_addresses_and_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Box")
    names = HostNames(is_local=False)
    assert all(map(names.allow, ("192.168.1.7:8000", "box", "box.local:8000", "localhost")))
    assert not any(map(names.allow, ("evil.example", "box.evil.example", "")))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "10.0.0.1"])
def test_request_with_another_host_is_refused(client: Client, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/model"), ("POST", "/predict")):
        answer = client.send(method, path, host=host)
        assert (answer.status, answer.json["where"]) == (400, "Host")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_request_of_another_site_is_refused(client: Client, headers: dict[str, str]) -> None:
    assert client.predict(PICTURE, **headers).status == 403
    assert client.send("GET", "/model", **headers).status == 403
    assert client.send("OPTIONS", "/predict", **headers).status == 403


def test_request_of_the_page_is_answered(client: Client) -> None:
    origin = client.address.rstrip("/")
    assert client.predict(PICTURE, origin=origin, sec_fetch_site="same-origin").status == 200


def test_link_of_another_site_opens_the_page(client: Client) -> None:
    answer = client.send("GET", "/", sec_fetch_site="cross-site")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/openapi.json", "/model", "/health", "/nothing"])
def test_every_response_has_the_security_headers_and_none_of_cors(client: Client, path: str) -> None:
    answer = client.send("GET", path)
    assert answer.status == (404 if path == "/nothing" else 200)
    assert SECURITY_HEADERS.items() <= answer.headers.items()
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css"])
def test_page_refers_to_no_other_server(client: Client, path: str) -> None:
    text = client.send("GET", path).body.decode()
    assert set(re.findall(r"https?:[^'\"\s]*", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("DELETE", "/model", 405),
        ("GET", "/static/page.html", 404),
        ("GET", "/thumbnails/../../etc/passwd", 404),
        ("GET", "/thumbnails/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("GET", "/thumbnails/0", 404),
        ("GET", "/thumbnails/-1", 404),
        ("GET", "/thumbnails/" + "9" * 5000, 404),
    ],
)
def test_other_requests_are_errors_in_json(client: Client, method: str, path: str, status: int) -> None:
    answer = client.send(method, path)
    assert answer.status == status
    assert answer.json.keys() == {"error", "where", "expected", "got", "advice"}
