"""HTTP server on 127.0.0.1 with answers that a test defines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(frozen=True)
class Answer:
    """Answer to a request; `declared` is the Content-Length if it differs from the length of the body."""

    body: bytes
    status: int = 200
    declared: int | None = None


@dataclass
class WebServer:
    """Answers of a server by path, and the requested paths."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def serve(self, path: str, body: bytes, *, status: int = 200, declared: int | None = None) -> str:
        """Set the answer for a path, and return its URL."""
        self.answers[path] = Answer(body, status, declared)
        return self.url + path


@contextmanager
def run_server() -> Iterator[WebServer]:
    """Run a server on a free port of 127.0.0.1."""
    site = WebServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append(self.path)
            answer = site.answers.get(self.path, Answer(b"no such page", 404))
            self.send_response(answer.status)
            length = len(answer.body) if answer.declared is None else answer.declared
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
