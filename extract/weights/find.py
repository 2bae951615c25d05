"""Finds the backbone's weights: by name, from a file, or whatever can be had."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from base.errors import HeadstartError, UsageError
from base.files import hash_file
from base.terminal import Console, import_quietly
from extract.weights import nsfwjs
from extract.weights.keras_file import WeightsFormat, detect_format

FILE_NAME = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
COURSE_URL = f"https://storage.googleapis.com/mledu-datasets/{FILE_NAME}"
KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{FILE_NAME}"
KNOWN_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"
"""Keras's own `file_hash` of the official file."""
DOWNLOAD_TIMEOUT_S = 30.0
URL_VARIABLE = "HEADSTART_WEIGHTS_URL"
CACHE_VARIABLE = "HEADSTART_CACHE"


AUTO = "auto"
"""`--weights auto`: the store's own; for a new store ImageNet's, else nsfwjs."""
UNOFFICIAL = ", NOT THE OFFICIAL FILE"


class WeightsName(StrEnum):
    """Where weights came from."""

    IMAGENET = "imagenet"
    NSFWJS = "nsfwjs"
    RANDOM = "random"
    FILE = "file"


@dataclass(frozen=True)
class Weights:
    """Weights that were found: which, and in what file (none for `random`)."""

    name: WeightsName
    path: Path | None = None
    sha256: str = ""
    is_known: bool = True
    """Whether it is the very file that it was taken for; a file of the user's own always is."""
    is_recalled: bool = False
    """Whether a store's record names the file, which has not been looked at."""

    def __str__(self) -> str:
        """What people are told."""
        if self.path is None:
            return str(self.name)
        remark = "" if self.is_known else UNOFFICIAL
        return f"{self.name}{remark} ({self.path}, SHA-256 {self.sha256[:12]}…)"


def check_weights_argument(weights: str) -> None:
    """Raises UsageError for a `--weights` that is neither a known name nor a file; answers at once."""
    if weights in (AUTO, *(name for name in WeightsName if name is not WeightsName.FILE)):
        return
    path = Path(weights)
    if not path.is_file():
        raise UsageError(
            f"--weights {weights}",
            "auto, imagenet, nsfwjs, random or a weights file",
            "a folder" if path.is_dir() else "no such file",
            "Check the path",
        )
    detect_format(path)


def find_weights(weights: str, console: Console, sha256: str = "") -> Weights:
    """Finds the weights that `--weights` names, fetching them where needed.

    Args:
        weights: `auto`, `imagenet`, `nsfwjs`, `random` or a file.
        console: told what was tried.
        sha256: what the file's digest has to be; empty for any.

    Raises:
        HeadstartError: they cannot be had, or are another file; for `auto`, names everything that was tried.
    """
    check_weights_argument(weights)
    found = _find_named(weights, console)
    if sha256 and found.sha256 != sha256.strip().lower():
        raise HeadstartError(
            f"--weights {weights}",
            f"a file with SHA-256 {sha256}",
            f"{found.path} with {found.sha256}" if found.path else "no file",
            "Nothing was extracted; take the file from where the digest is from, or leave --weights-sha256 out",
        )
    return found


def reopen_weights(weights: Weights, console: Console) -> Weights:
    """Return weights whose file is there: one that a store's record names may have been moved since.

    Raises:
        HeadstartError: it was moved or changed, and can't be fetched.
    """
    if not weights.is_recalled:
        return weights
    path = weights.path
    if path is not None and path.is_file() and hash_file(path, "sha256") == weights.sha256:
        return replace(weights, is_recalled=False)
    if path is not None and weights.name is WeightsName.FILE:
        raise HeadstartError(
            path,
            f"the weights file that the store was made with, SHA-256 {weights.sha256[:12]}…",
            "another file" if path.exists() else "no such file",
            "Give it with --weights FILE (WEIGHTS=FILE)",
        )
    return find_weights(weights.name.value, console)


def _find_named(weights: str, console: Console) -> Weights:
    match weights:
        case "random":
            return Weights(WeightsName.RANDOM)
        case "imagenet":
            return _find_imagenet(console)
        case "nsfwjs":
            return _find_nsfwjs()
        case weights if weights == AUTO:
            return _find_any(console)
        case _:
            return _describe(WeightsName.FILE, Path(weights))


def _find_any(console: Console) -> Weights:
    try:
        return _find_imagenet(console)
    except HeadstartError as no_imagenet:
        try:
            found = _find_nsfwjs()
        except HeadstartError as no_nsfwjs:
            raise HeadstartError(
                "--weights auto",
                "imagenet or nsfwjs to be had",
                f"neither. imagenet: {no_imagenet.got}. nsfwjs: {no_nsfwjs}".rstrip("."),
                "Give a file you have with --weights FILE (WEIGHTS=FILE)",
            ) from None
        console.warn(
            f"ImageNet weights cannot be had ({no_imagenet.got}). USING `nsfwjs` INSTEAD: InceptionV3 fine-tuned "
            "for another task, 8 bit; its features are weaker. For ImageNet's: --weights FILE (WEIGHTS=FILE)."
        )
        return found


def _find_imagenet(console: Console) -> Weights:
    mirror = os.environ.get(URL_VARIABLE)
    urls = [mirror] if mirror else [COURSE_URL, KERAS_URL]
    path = download_first(urls, console)
    is_known = hash_file(path, "md5") == KNOWN_MD5
    if not is_known:
        console.warn(
            f"{path}: not the official file byte for byte (MD5 is not {KNOWN_MD5}); the store records its SHA-256, and "
            "--weights-sha256 makes one a condition"
        )
    return replace(_describe(WeightsName.IMAGENET, path), is_known=is_known)


def download_first(urls: Sequence[str], console: Console) -> Path:
    """Downloads the weights file from the first URL that serves a good one, or takes it from Keras's cache.

    Args:
        urls: tried in turn. The official ones share Keras's own cache entry; any other has one of its own.
        console: told of each failure.

    Returns:
        The file, checked to be InceptionV3 weights in HDF5.

    Raises:
        HeadstartError: no URL served one; says for each what came instead.
    """
    problems = []
    for url in urls:
        try:
            path = _download(url)
        except HeadstartError as error:
            problems.append(error.got if url in error.got else f"{error.got} at {url}")
            console.detail(str(error))
            continue
        return path
    raise HeadstartError(
        "--weights imagenet",
        FILE_NAME,
        "; ".join(problems),
        "Check the network, or give --weights FILE (WEIGHTS=FILE)",
    )


def _download(url: str) -> Path:
    import_quietly("keras")
    import keras

    official = url in (COURSE_URL, KERAS_URL)
    folder = "models" if official else f"models/{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
        # Keras prints its progress on stdout, which belongs to the result.
        with contextlib.redirect_stdout(sys.stderr):
            path = Path(keras.utils.get_file(FILE_NAME, origin=url, cache_subdir=folder))
    except Exception as error:
        # get_file raises a bare Exception for whatever went wrong, and removes the partial file.
        raise HeadstartError(url, "a weights file", str(error), "Check the address") from error
    finally:
        socket.setdefaulttimeout(timeout)
    try:
        detect_format(path)
    except HeadstartError as error:
        path.unlink(missing_ok=True)
        raise HeadstartError(url, "a weights file", error.got, "It was removed from the cache") from error
    return path


def _find_nsfwjs() -> Weights:
    path = nsfwjs.fetch_package(find_cache_folder())
    weights = _describe(WeightsName.NSFWJS, path)
    if weights.sha256 != nsfwjs.PACKAGE_SHA256:
        raise HeadstartError(
            path,
            f"{nsfwjs.PACKAGE} with SHA-256 {nsfwjs.PACKAGE_SHA256[:12]}…",
            f"SHA-256 {weights.sha256[:12]}…",
            "Move it out of the cache and run again, so that it is fetched anew",
        )
    return weights


def find_cache_folder() -> Path:
    """Returns the folder for fetched files: $HEADSTART_CACHE, else the user's cache folder."""
    own = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(base) if base else Path.home() / ".cache") / "headstart"


def _describe(name: WeightsName, path: Path) -> Weights:
    if name is WeightsName.FILE and detect_format(path) is WeightsFormat.NSFWJS:
        name = WeightsName.NSFWJS
    return Weights(name, path.resolve(), hash_file(path, "sha256"))
