"""Find the weights of the backbone: from a known source, from a file, or the best available."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from base.errors import HeadstartError, UsageError
from base.files import hash_file, write_durably
from base.npm import fetch_package, find_cache_folder
from base.places.sources import RemoteSource, download
from base.terminal import Console, import_quietly
from base.urls import is_url, redact
from extract.weights import nsfwjs
from extract.weights.keras_file import check_weights_file

FILE_NAME = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
COURSE_URL = f"https://storage.googleapis.com/mledu-datasets/{FILE_NAME}"
KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{FILE_NAME}"
OFFICIAL_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"
"""MD5 of the official file, from Keras."""
DOWNLOAD_TIMEOUT_S = 30.0
_ALTERNATIVE = "or give a weights file with --weights"
AUTO = "auto"
"""Default of `--weights`: the weights of the store; for a new store, imagenet if available, else nsfwjs."""
UNOFFICIAL = ", NOT THE OFFICIAL FILE"
"""Remark after the name of weights that differ from the official file; stores record it."""


class WeightsName(StrEnum):
    """Source of weights."""

    IMAGENET = "imagenet"
    NSFWJS = "nsfwjs"
    RANDOM = "random"
    FILE = "file"


WEAK_WEIGHTS = {WeightsName.NSFWJS: "fallback, weaker than ImageNet's"}
"""Remark on weights with which a head is less accurate than with ImageNet's."""


def describe_weak_weights(name: str) -> str:
    """Return the name of weights with the remark that they are weak; empty for other weights."""
    remark = WEAK_WEIGHTS.get(WeightsName(name)) if name in set(WeightsName) else None
    return f"{name} ({remark})" if remark else ""


@dataclass(frozen=True)
class Weights:
    """Source and file of the backbone's weights; the file is None for `random`."""

    name: WeightsName
    path: Path | None = None
    sha256: str = ""
    is_official: bool = True
    """Whether a downloaded file equals the official one; True for other sources."""
    from_record: bool = False
    """Whether path and digest come from the records of a store and are not checked yet."""

    def __str__(self) -> str:
        """Return source, file and digest as text."""
        if self.path is None:
            return str(self.name)
        return f"{self.name}{'' if self.is_official else UNOFFICIAL} ({self.path}, SHA-256 {self.sha256[:12]}…)"


def check_weights_argument(weights: str) -> None:
    """Raise UsageError if `weights` is neither a source, a URL nor a file, HeadstartError if a file is unsuitable."""
    path = Path(weights)
    if weights in (AUTO, "imagenet", "nsfwjs", "random") or is_url(weights):
        return
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise UsageError(
            f"--weights {weights}", "auto, imagenet, nsfwjs, random or a weights file", got, "Check the path"
        )
    check_weights_file(path)


def find_weights(weights: str, console: Console, sha256: str = "") -> Weights:
    """Find weights, and download them if necessary.

    Args:
        weights: `auto`, `imagenet`, `nsfwjs`, `random`, or the path or URL of a file.
        console: output for warnings and failed attempts.
        sha256: required SHA-256 of the file; empty to accept any.

    Raises:
        HeadstartError: the weights are not available, or the file has another digest.
    """
    check_weights_argument(weights)
    match weights:
        case "auto":
            found = _find_default(console)
        case "imagenet":
            found = _find_imagenet(console)
        case "nsfwjs":
            found = _find_nsfwjs()
        case "random":
            found = Weights(WeightsName.RANDOM)
        case _:
            path = _fetch_url(weights, sha256) if is_url(weights) else Path(weights)
            is_package = check_weights_file(path)
            found = _describe(WeightsName.NSFWJS if is_package else WeightsName.FILE, path)
    if sha256 and found.sha256 != sha256.strip().lower():
        raise HeadstartError(
            f"--weights {redact(weights)}",
            f"a file with SHA-256 {sha256}",
            f"{found.path} with SHA-256 {found.sha256}" if found.path else "no file",
            "Give the file that has this digest, or leave --weights-sha256 out",
        )
    return found


def reopen_weights(weights: Weights, console: Console) -> Weights:
    """Return weights with a checked file; find them again if the file recorded in a store was moved or changed.

    Raises:
        HeadstartError: the file cannot be found or downloaded.
    """
    path = weights.path
    if not weights.from_record or (path and path.is_file() and hash_file(path) == weights.sha256):
        return replace(weights, from_record=False)
    if path is None or weights.name is not WeightsName.FILE:
        return find_weights(weights.name.value, console)
    expected = f"the weights file of the store, SHA-256 {weights.sha256[:12]}…"
    got = "another file" if path.exists() else "no such file"
    raise HeadstartError(path, expected, got, "Give the file with --weights")


def _find_default(console: Console) -> Weights:
    try:
        return _find_imagenet(console)
    except HeadstartError as error:
        no_imagenet = error.got
    console.debug(f"ImageNet's weights: {no_imagenet}")
    try:
        found = _find_nsfwjs()
    except HeadstartError as error:
        got = f"neither. imagenet: {no_imagenet}. nsfwjs: {error}".rstrip(".")
        advice = "Give a weights file with --weights"
        raise HeadstartError("--weights auto", "imagenet or nsfwjs weights", got, advice) from None
    mirror = os.environ.get("HEADSTART_WEIGHTS_URL")
    source = f" from {redact(mirror)}" if mirror else ""
    console.warning(
        f"ImageNet's weights cannot be downloaded{source}. Those of nsfwjs are used, an InceptionV3 for another task, "
        "which lowers the accuracy"
    )
    console.info(f"to use ImageNet's weights, download {COURSE_URL}, and extract with --weights FILE --new-store")
    return found


def _find_imagenet(console: Console) -> Weights:
    mirror = os.environ.get("HEADSTART_WEIGHTS_URL")
    path = download_first([mirror] if mirror else [COURSE_URL, KERAS_URL], console)
    is_official = hash_file(path, "md5") == OFFICIAL_MD5
    if not is_official:
        console.warning(
            f"{path} is not the official ImageNet file, whose MD5 is {OFFICIAL_MD5}. Its features may differ. "
            "Give --weights-sha256 to accept one file only"
        )
    return replace(_describe(WeightsName.IMAGENET, path), is_official=is_official)


def download_first(urls: Sequence[str], console: Console) -> Path:
    """Download the weights file from the first URL that serves a valid one, or return it from the Keras cache.

    Raises:
        HeadstartError: no URL serves a valid file; `got` lists the failures.
    """
    problems = []
    for url in urls:
        try:
            return _download(url, console)
        except HeadstartError as error:
            problems.append(error.got if url in error.got else f"{error.got} at {url}")
            console.debug(str(error))
    advice = "Check the network, or give a weights file with --weights"
    raise HeadstartError("--weights imagenet", FILE_NAME, "; ".join(problems), advice)


def _download(url: str, console: Console) -> Path:
    import_quietly("keras")
    import keras

    # The official URLs share the cache entry of Keras; any other URL has its own entry.
    official = url in (COURSE_URL, KERAS_URL)
    folder = "models" if official else f"models/{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
        # Keras prints its progress on stdout, where `--json` prints the result.
        with contextlib.redirect_stdout(io.StringIO() if console.options.quiet else sys.stderr):
            path = Path(keras.utils.get_file(FILE_NAME, origin=url, cache_subdir=folder))
    except Exception as error:
        # get_file raises Exception for any failure, and removes the partial file.
        raise HeadstartError(url, "a weights file", str(error), "Check the address") from error
    finally:
        socket.setdefaulttimeout(timeout)
    try:
        check_weights_file(path)
    except HeadstartError as error:
        path.unlink(missing_ok=True)
        raise HeadstartError(
            url, "a weights file", error.got, "Check the address; the file was removed from the cache"
        ) from error
    return path


def _fetch_url(url: str, sha256: str) -> Path:
    """Return the file of a URL in the cache, into which it is downloaded if it is new or has changed.

    A file that has the required digest is used without a connection.

    Raises:
        RemoteError: the file cannot be read.
        HeadstartError: it is no weights file.
    """
    where = redact(url)
    folder = find_cache_folder() / "weights" / hashlib.sha256(where.encode()).hexdigest()[:16]
    path, mark = folder / where.rpartition("/")[2], folder / "identity"
    if sha256 and path.is_file() and hash_file(path) == sha256.strip().lower():
        return path
    identity = RemoteSource(url).identity
    if identity and path.is_file() and mark.is_file() and mark.read_text() == identity:
        return path
    mark.unlink(missing_ok=True)
    download(url, path)
    try:
        check_weights_file(path)
    except HeadstartError as error:
        path.unlink(missing_ok=True)
        raise HeadstartError(where, error.expected, error.got, "Check the address") from error
    write_durably(mark, identity.encode())
    return path


def _find_nsfwjs() -> Weights:
    weights = _describe(WeightsName.NSFWJS, fetch_package(nsfwjs.PACKAGE, find_cache_folder(), _ALTERNATIVE))
    if weights.sha256 != nsfwjs.PACKAGE.sha256:
        raise HeadstartError(
            weights.path,
            f"{nsfwjs.PACKAGE} with SHA-256 {nsfwjs.PACKAGE.sha256[:12]}…",
            f"SHA-256 {weights.sha256[:12]}…",
            "Delete the file and run again, to download it again",
        )
    return weights


def _describe(name: WeightsName, path: Path) -> Weights:
    return Weights(name, path.resolve(), hash_file(path))
