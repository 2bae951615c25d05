"""Weights of the backbone: files in the caches and their digests, and the sources they are downloaded from."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPException, InvalidURL
from pathlib import Path

from base.files import hash_file
from base.npm import find_cache_folder
from base.terminal import format_bytes, format_count
from headstart.doctor.findings import Finding, Status

TIMEOUT_S = 4.0
"""Time limit of a connection. The name of a host is resolved without a limit, so the thread has one of its own."""

_ABSENT = "not in the cache"


def find_keras_folder() -> Path:
    """Return the folder in which Keras keeps its configuration and downloads."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def check_weights() -> Iterator[Finding]:
    """Check the cached weights, and the sources of those that are not cached."""
    from extract.weights import nsfwjs
    from extract.weights.find import COURSE_URL, FILE_NAME, KERAS_URL, OFFICIAL_MD5

    mirror = os.environ.get("HEADSTART_WEIGHTS_URL", "")
    models = find_keras_folder() / "models"
    imagenet = (models / hashlib.sha256(mirror.encode()).hexdigest()[:16] if mirror else models) / FILE_NAME
    fallback = find_cache_folder() / nsfwjs.PACKAGE.file
    official = check_file("ImageNet weights", imagenet, "md5", OFFICIAL_MD5)
    yield official
    yield check_file(f"weights of {nsfwjs.PACKAGE}", fallback, "sha256", nsfwjs.PACKAGE.sha256)
    given: list[Path] = []
    # `folders` reports a cache that cannot be read.
    with suppress(OSError):
        files = (find_cache_folder() / "weights").rglob("*")
        given += (path for path in files if path.is_file() and path.name != "identity")
    if given:
        num_bytes = sum(path.stat().st_size for path in given)
        yield Finding("weights from URLs", f"{format_count(len(given), 'file')}, {format_bytes(num_bytes)}")
    sources = (
        {"HEADSTART_WEIGHTS_URL": mirror}
        if mirror
        else {"ImageNet source 1": COURSE_URL, "ImageNet source 2": KERAS_URL}
    )
    found = check_sources(sources, is_mirror=bool(mirror))
    yield from found
    if official.value == _ABSENT and all(each.status is not Status.OK for each in found):
        way = "network and the proxy" if urllib.request.getproxies() else "network"
        advice = f"Check the {way}, or download {COURSE_URL} elsewhere and give the file with --weights"
        yield Finding("ImageNet download", "not reachable, and not in the cache", Status.NOTE, advice)
    has_npm = shutil.which("npm") is not None
    yield Finding("npm", f"{'on' if has_npm else 'not on'} the PATH; it downloads the fallback weights")


def check_file(name: str, path: Path, algorithm: str, digest: str) -> Finding:
    """Compare a cached file with its published digest."""
    try:
        if not path.is_file():
            return Finding(name, _ABSENT)
        found, size = hash_file(path, algorithm), format_bytes(path.stat().st_size)
    except OSError as error:
        return Finding(name, f"not readable: {error.strerror}", Status.PROBLEM, f"Change the permissions of {path}")
    if found == digest:
        return Finding(name, f"in the cache, {size}, as published")
    advice = f"Delete {path}; the next extraction downloads it again"
    return Finding(
        name, f"in the cache, {size}, but {algorithm.upper()} {found[:12]}… is wrong", Status.PROBLEM, advice
    )


def check_sources(sources: Mapping[str, str], *, is_mirror: bool) -> list[Finding]:
    """Send a request to each source at the same time; none waits longer than the time limits.

    Args:
        sources: URL of each name.
        is_mirror: whether the user gave the URL. An answer that refuses the file is then a problem.
    """
    answers: dict[str, tuple[Status, str]] = {}

    def ask(name: str, url: str) -> None:
        answers[name] = ask_source(url, is_mirror=is_mirror)

    threads = [threading.Thread(target=ask, args=source, daemon=True) for source in sources.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT_S)
    found = []
    for name in sources:
        status, text = answers.get(name, (Status.NOTE, "no answer in time"))
        advice = "Correct the address, or unset the variable" if status is Status.PROBLEM else ""
        found.append(Finding(name, text, status, advice))
    return found


def ask_source(url: str, *, is_mirror: bool) -> tuple[Status, str]:
    """Ask a source for the file, and read only the headers; return the status and a text for the report."""
    refused = Status.PROBLEM if is_mirror else Status.NOTE
    try:
        # Not HEAD: servers refuse it for signed URLs.
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            size = answer.headers.get("Content-Length")
            return Status.OK, "reachable" + (f", {format_bytes(int(size))}" if size else "")
    except urllib.error.HTTPError as error:
        return refused, f"HTTP status {error.code}"
    except (ValueError, InvalidURL):
        return refused, "not a URL that Python opens"
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Status.NOTE, f"not reachable: {getattr(reason, 'strerror', None) or reason}"
    except HTTPException as error:
        return Status.NOTE, f"not reachable: no answer in HTTP ({type(error).__name__})"
