"""Remove personal data from a report: paths, the user's name, the name of the computer, and addresses of mirrors."""

from __future__ import annotations

import getpass
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from headstart.doctor.findings import Finding

_PATH = re.compile(
    # A URL, which is kept; or an absolute path, whose folders are removed. Quotes, spaces and colons end a path.
    r"(?P<url>\b[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"]*)"
    r"|(?<![\w.~>/\\…-])(?:[A-Za-z]:)?[/\\](?:[^\s'\":;,()<>/\\]+[/\\])*(?P<name>[^\s'\":;,()<>/\\]*)"
)
_MIN_LENGTH = 2
"""Number of characters from which a name is replaced; shorter ones occur in other words."""


class Redactor:
    """Replaces personal data in texts by placeholders."""

    def __init__(self, places: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Create a redactor.

        Args:
            places: placeholder of each path that is replaced as a whole; spaces in it are allowed.
            names: placeholder of each name that is replaced as a word.
        """
        # A path in another is replaced first.
        self._places = sorted(places.items(), key=lambda item: -len(item[0]))
        self._names = sorted(names.items(), key=lambda item: -len(item[0]))

    def redact(self, text: str) -> str:
        """Return a text in which personal data are replaced."""
        for place, placeholder in self._places:
            text = re.sub(rf"{re.escape(place)}(?![^/\\\s'\":;,)])", placeholder.replace("\\", r"\\"), text)
        text = _PATH.sub(lambda found: found["url"] or f"…/{found['name']}", text)
        for name, placeholder in self._names:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", placeholder, text, flags=re.IGNORECASE)
        return text

    def redact_finding(self, finding: Finding) -> Finding:
        """Return a finding in which personal data are replaced."""
        return replace(finding, value=self.redact(finding.value), advice=self.redact(finding.advice))


def build_redactor() -> Redactor:
    """Build a redactor for the paths and names of this computer; what cannot be found is left out."""
    places, names = dict[str, str](), dict[str, str]()
    for placeholder, find in _list_places():
        with suppress(OSError, RuntimeError):
            for path in (find(), find().resolve()):
                if len(path.parts) > 1:
                    places.setdefault(str(path), placeholder)
    for placeholder, find_name in _list_names():
        with suppress(OSError, RuntimeError, KeyError, ImportError):
            name = find_name()
            if len(name) >= _MIN_LENGTH:
                names.setdefault(name, placeholder)
    return Redactor(places, names)


def _list_places() -> Iterator[tuple[str, Callable[[], Path]]]:
    yield "~", Path.home
    yield "<current folder>", Path.cwd
    yield "<temporary folder>", lambda: Path(tempfile.gettempdir())
    yield "<environment>", lambda: Path(sys.prefix)
    yield "<Python>", lambda: Path(sys.base_prefix)
    yield "<Headstart>", lambda: Path(__file__).parents[2]
    for variable in ("HEADSTART_CACHE", "KERAS_HOME", "XDG_CACHE_HOME"):
        if value := os.environ.get(variable):
            yield f"${variable}", partial(Path, value)


def _list_names() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "<user>", getpass.getuser
    yield "<user>", lambda: Path.home().name
    yield "<host>", socket.gethostname
    yield "<host>", lambda: socket.gethostname().partition(".")[0]
