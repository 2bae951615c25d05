"""Files at URLs, read with fsspec: connection, errors, retries and downloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from base.errors import HeadstartError, UsageError, require_extra
from base.urls import is_url, redact

PACKAGES = {
    **dict.fromkeys(["s3", "s3a"], ("s3fs", "s3")),
    **dict.fromkeys(["gs", "gcs"], ("gcsfs", "gs")),
    **dict.fromkeys(["https", "http"], ("aiohttp", "https")),
}
"""Package and extra of Headstart for each scheme that has one."""
RETRY_DELAYS_S = (0.5, 2.0, 5.0)
"""Waits before the second and each later attempt; fsspec's file systems also repeat some requests themselves."""
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60
_REPEATED_STATUSES = (408, 425, 429)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
"""Classes of errors of botocore, which is not always installed."""
_INVALID = (*_NO_CREDENTIALS, "ParamValidationError")
"""Classes of errors of requests that are never sent."""
_MAX_MESSAGE = 300

Result = TypeVar("Result")


class RemoteError(HeadstartError):
    """URL that cannot be reached or read; no file is at fault."""


class RemoteMissingError(RemoteError):
    """URL of no file or folder."""


class Connection(NamedTuple):
    """File system of fsspec, and the path of a URL in it."""

    system: Any
    path: str
    where: str
    """URL without credentials, for messages."""

    @property
    def is_web(self) -> bool:
        """Whether the place is on a web server, which cannot be written, and does not list its files."""
        return "https" in self.system.protocol


def connect(url: str) -> Connection:
    """Open the file system of a URL. Only the credentials in the URL and in the environment are used.

    Raises:
        UsageError: the scheme is unknown, or its package is not installed.
        RemoteError: the file system cannot be opened.
    """
    if not is_url(url):
        url = f"file://{Path(url).absolute()}"
    where, scheme = redact(url), url.partition("://")[0]
    if scheme in PACKAGES:
        package, extra = PACKAGES[scheme]
        require_extra(package, where, extra=extra)
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        expected = f"the package that fsspec needs for {scheme}://"
        raise UsageError(where, expected, _describe(error), "Install it, or copy the files to a disk") from error
    except ValueError as error:
        advice = "Give s3://, gs://, https://, zip://, tar://, or another scheme of fsspec"
        raise UsageError(where, "a scheme that fsspec knows", f"{scheme}://", advice) from error
    bucket = url.partition("://")[2].partition("/")[0] if scheme in ("s3", "s3a", "gs", "gcs") else scheme
    if not bucket:
        raise UsageError(
            where, "a URL with a bucket", "none", f"Give a folder in a bucket, such as {scheme}://bucket/x"
        )
    if "@" in bucket:
        advice = "Set the credentials in the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise UsageError(where, "a URL without credentials", "one with credentials", advice)
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    elif scheme in ("s3", "s3a"):
        waits = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        options["config_kwargs"] = {**waits, "retries": {"mode": "standard", "max_attempts": 3}}
    try:
        system, path = fsspec.url_to_fs(url, **options)
    except Exception as error:
        raise convert_remote_error(error, where) from error
    return Connection(system, path, where)


def repeat(request: Callable[[], Result], where: str, delays: Sequence[float] | None = None) -> Result:
    """Return the result of a request, which is repeated after a failure that may be temporary.

    Args:
        request: the request.
        where: URL without credentials, for messages.
        delays: waits before the second and each later attempt, in seconds; None for `RETRY_DELAYS_S`. Empty for the
            first request to a server, whose address may be wrong.

    Raises:
        RemoteMissingError: the file does not exist.
        RemoteError: access is refused, or all attempts failed.
    """
    for delay in (*(RETRY_DELAYS_S if delays is None else delays), None):
        try:
            return request()
        except MemoryError:
            raise
        except Exception as raised:
            error = _unwrap(raised)
            if delay is None or not _may_be_temporary(error):
                raise convert_remote_error(error, where) from error
        time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


def convert_remote_error(error: Exception, where: str) -> HeadstartError:
    """Convert an error of a file system of fsspec; its text has no credentials.

    Args:
        error: the error.
        where: URL without credentials.
    """
    if isinstance(error, HeadstartError):
        return error
    got = _describe(error)
    if type(error.__cause__).__name__ == "NoSuchBucket":
        return RemoteError(where, "an existing bucket", "none", "Create it, or check the address")
    if isinstance(error, FileNotFoundError):
        return RemoteMissingError(where, "an existing file or folder", got, "Check the address")
    if isinstance(error, PermissionError) or _find_status(error) in (401, 403):
        advice = "Check the credentials (docs/how-to/urls.md) and the permissions"
        return RemoteError(where, "permission to read or write", got, advice)
    if type(error).__name__ in _NO_CREDENTIALS:
        advice = "Set them in the environment, or FSSPEC_S3_ANON=1 for a public bucket (docs/how-to/urls.md)"
        return RemoteError(where, "credentials", got, advice)
    advice = "Check the network, the address and the endpoint, and run again"
    return RemoteError(where, "an answer of the server", got, advice)


def _may_be_temporary(error: Exception) -> bool:
    if isinstance(error, HeadstartError | FileNotFoundError | PermissionError | NotImplementedError):
        return False
    if (status := _find_status(error)) is not None:
        return status >= 500 or status in _REPEATED_STATUSES
    return type(error).__name__ not in _INVALID


def _unwrap(error: Exception) -> Exception:
    """Return the cause of an error of HTTPFileSystem, which reports every failure as a missing file."""
    cause = error.__cause__
    is_other = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return cause if is_other or _find_status(cause) not in (None, 404) else error
    return error


def _find_status(error: Exception) -> int | None:
    """Return the HTTP status of an error of aiohttp or gcsfs; None for any other."""
    status = getattr(error, "status" if hasattr(error, "status") else "code", None)
    return status if isinstance(status, int) else None


def _describe(error: Exception) -> str:
    """Describe an error without credentials, in one line."""
    status, message = _find_status(error), getattr(error, "message", "")
    if status is not None and isinstance(message, str):
        return f"the answer {status} {redact(message)}".strip()
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    text = " ".join(redact(str(error)).split())
    return text[:_MAX_MESSAGE] or type(error).__name__
