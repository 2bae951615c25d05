from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import UsageError
from base.remote import RemoteError, RemoteMissingError, connect, convert_remote_error, repeat
from tests.errors import raises
from tests.servers import Bucket

pytestmark = pytest.mark.unit


def read(url: str) -> bytes:
    system, path, where = connect(url)
    return bytes(repeat(lambda: system.cat_file(path), where))


def test_connect_to_bucket_reads_object(bucket: Bucket) -> None:
    assert read(bucket.put("folder/a b.txt", b"text")) == b"text"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_connect_to_local_path_reads_file(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text")
    assert read(f"{prefix}{tmp_path}/a.txt") == b"text"


def test_connect_to_unknown_scheme_fails_as_usage_error() -> None:
    with raises(UsageError, where="s4://bucket/a", got="s4://"):
        connect("s4://bucket/a")


def test_connect_without_package_names_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base.errors.find_spec", lambda _: None)
    with raises(UsageError, where="s3://bucket/a", expected="the package s3fs") as caught:
        connect("s3://bucket/a")
    assert "headstart[s3]" in caught.value.advice


def test_connect_with_credentials_in_bucket_name_fails_without_them() -> None:
    with raises(UsageError, where="s3://bucket/a") as caught:
        connect("s3://key:secret@bucket/a")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://", "s3:///folder"])
def test_connect_without_bucket_fails_as_usage_error(url: str) -> None:
    with raises(UsageError, where=url, got="none"):
        connect(url)


def test_missing_object_and_bucket_give_different_errors(bucket: Bucket) -> None:
    with raises(RemoteMissingError, where=f"{bucket.url}/a"):
        read(f"{bucket.url}/a")
    system, path, where = connect("s3://no-such-bucket/a")
    with raises(RemoteError, where="s3://no-such-bucket/a", expected="an existing bucket"):
        repeat(lambda: system.pipe_file(path, b""), where)


def test_forbidden_object_gives_error_about_permission(bucket: Bucket) -> None:
    url = bucket.put("a", b"text")
    with bucket.forbid(), raises(RemoteError, where=url, expected="permission to read or write"):
        read(url)


def test_missing_credentials_give_error_about_them(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    system, path, where = connect(f"{bucket.url}/a")
    # A new client reads the environment again.
    fresh = type(system)(skip_instance_cache=True)
    with raises(RemoteError, where=where, expected="credentials"):
        repeat(lambda: fresh.cat_file(path), where)


def test_closed_port_gives_error_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base.remote.RETRY_DELAYS_S", (0.0,))
    with raises(RemoteError, where="http://127.0.0.1:1/a") as caught:
        read("http://user:secret@127.0.0.1:1/a?token=secret")
    assert "secret" not in str(caught.value)


def test_repeat_of_temporary_failure_returns_later_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base.remote.RETRY_DELAYS_S", (0.0, 0.0))
    failures = [TimeoutError(), ConnectionResetError()]

    def request() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert repeat(request, "s3://bucket/a") == "done"


def test_convert_remote_error_of_own_error_returns_it() -> None:
    error = RemoteError("s3://bucket/a", "a file", "none", "Check it")
    assert convert_remote_error(error, "s3://bucket/b") is error
