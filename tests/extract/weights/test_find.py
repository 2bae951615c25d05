"""Find weights: known names, files, downloads, and the default order."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from base.terminal import Console, ConsoleOptions
from extract.weights import nsfwjs
from extract.weights.find import (
    FILE_NAME,
    UNOFFICIAL,
    Weights,
    WeightsName,
    check_weights_argument,
    download_first,
    find_weights,
)
from tests.commands import list_warnings
from tests.errors import raises
from tests.extract.webserver import WebServer
from tests.extract.weight_files import draw_small_layers, draw_tensors, write_legacy_file, write_package
from tests.fake_npm import install_npm


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File with as many layers as InceptionV3, a few numbers each; must not be changed."""
    return write_legacy_file(tmp_path_factory.mktemp("small") / "small.h5", draw_small_layers(188))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def list_cached(keras_home: Path) -> list[Path]:
    return [path for path in keras_home.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small npm package; must not be changed."""
    tensors = draw_tensors([(3, 3, 4, 8), (1, 1, 8, 16)] * 47)
    return write_package(tmp_path_factory.mktemp("package") / "made.tgz", tensors)


@pytest.fixture
def installed(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Digest of the small package, which a fake npm serves and `find_weights` expects."""
    install_npm(tmp_path / "bin", f'cp "{package}" "$5/{nsfwjs.PACKAGE.file}"', monkeypatch)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    monkeypatch.setattr("extract.weights.nsfwjs.PACKAGE", replace(nsfwjs.PACKAGE, sha256=digest))
    return digest


@pytest.mark.unit
@pytest.mark.parametrize("name", ["auto", "imagenet", "nsfwjs", "random"])
def test_check_weights_argument_known_name_passes(name: str) -> None:
    check_weights_argument(name)


@pytest.mark.unit
def test_check_weights_argument_weights_file_passes(small_file: Path) -> None:
    check_weights_argument(str(small_file))


@pytest.mark.unit
@pytest.mark.parametrize(("weights", "got"), [("imagnet", "no such file"), ("file", "no such file"), (".", "a folder")])
def test_check_weights_argument_unknown_name_or_folder_is_refused(weights: str, got: str) -> None:
    with raises(UsageError, where=f"--weights {weights}", got=got) as caught:
        check_weights_argument(weights)
    assert caught.value.exit_status == 2


@pytest.mark.unit
def test_check_weights_argument_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"<html>")
    with raises(HeadstartError, where=tmp_path / "w.h5"):
        check_weights_argument(str(tmp_path / "w.h5"))


@pytest.mark.unit
def test_find_weights_random_needs_no_file(quiet: Console) -> None:
    found = find_weights("random", quiet)
    assert found == Weights(WeightsName.RANDOM)
    assert str(found) == "random"


@pytest.mark.unit
def test_find_weights_file_returns_its_resolved_path_and_digest(
    small_file: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_file.parent)
    digest = hashlib.sha256(small_file.read_bytes()).hexdigest()

    found = find_weights("small.h5", quiet)

    assert found == Weights(WeightsName.FILE, small_file.resolve(), digest)
    assert str(found) == f"file ({small_file.resolve()}, SHA-256 {digest[:12]}…)"


@pytest.mark.unit
def test_find_weights_npm_package_is_recognized_by_its_content(package: Path, quiet: Console) -> None:
    found = find_weights(str(package), quiet)
    assert (found.name, found.path) == (WeightsName.NSFWJS, package)


def test_download_valid_file_is_cached_and_requested_once(
    small_file: Path, server: WebServer, keras_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.serve("/weights.h5", small_file.read_bytes())

    path = download_first([url], Console())
    again = download_first([url], Console())

    assert path == again == keras_home / "models" / hashlib.sha256(url.encode()).hexdigest()[:16] / FILE_NAME
    assert path.read_bytes() == small_file.read_bytes()
    assert server.requests == ["/weights.h5"]
    assert capsys.readouterr().out == "", "stdout is for the result"


@pytest.mark.parametrize("is_official", [True, False])
def test_find_weights_downloaded_file_that_is_not_official_is_marked_with_a_warning(
    small_file: Path,
    server: WebServer,
    keras_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_official: bool,
) -> None:
    data = small_file.read_bytes()
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.serve("/weights.h5", data))
    if is_official:
        monkeypatch.setattr("extract.weights.find.OFFICIAL_MD5", hashlib.md5(data).hexdigest())
    found = find_weights("imagenet", Console())
    assert (found.name, found.is_official) == (WeightsName.IMAGENET, is_official)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    remark = "" if is_official else UNOFFICIAL
    assert str(found) == f"imagenet{remark} ({found.path}, SHA-256 {found.sha256[:12]}…)"
    warnings = list_warnings(capsys.readouterr().err)
    assert [str(found.path) in warning for warning in warnings] == ([] if is_official else [True])


@pytest.mark.unit
def test_find_weights_with_another_digest_than_required_is_refused_with_both(small_file: Path, quiet: Console) -> None:
    digest = hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert find_weights(str(small_file), quiet, digest.upper()).sha256 == digest
    other = "0" * 64
    with raises(HeadstartError, where=f"--weights {small_file}") as caught:
        find_weights(str(small_file), quiet, other)
    assert other in caught.value.expected
    assert digest in caught.value.got
    with raises(HeadstartError, where="--weights random") as caught:
        find_weights("random", quiet, other)
    assert other in caught.value.expected


@pytest.mark.parametrize(
    ("fault", "term"),
    [
        ("short body", "incomplete"),
        ("truncated file", "50,000"),
        ("page", "web page"),
        ("404", "404"),
        ("503", "503"),
        ("empty", "empty"),
        ("top layers", "189"),
    ],
)
def test_download_invalid_file_is_refused_with_its_reason_and_not_cached(
    fault: str,
    term: str,
    small_file: Path,
    server: WebServer,
    keras_home: Path,
    quiet: Console,
    tmp_path: Path,
) -> None:
    good = small_file.read_bytes()
    match fault:
        case "short body":
            url = server.serve("/w", good[:50_000], declared=len(good))
        case "truncated file":
            url = server.serve("/w", good[:50_000])
        case "page":
            url = server.serve("/w", b"<!DOCTYPE html><title>Sign in</title>")
        case "top layers":
            url = server.serve("/w", write_legacy_file(tmp_path / "t.h5", draw_small_layers(189)).read_bytes())
        case "empty":
            url = server.serve("/w", b"")
        case status:
            url = server.serve("/w", b"sorry", status=int(status))

    with raises(HeadstartError, where="--weights imagenet") as caught:
        download_first([url], quiet)

    assert caught.value.got.count(url) == 1
    assert term in caught.value.got
    assert list_cached(keras_home) == []

    server.serve("/w", good)
    assert download_first([url], quiet).read_bytes() == good


def test_download_refused_connection_is_an_error_with_the_url(keras_home: Path, quiet: Console) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/w"
        with raises(HeadstartError, where="--weights imagenet") as caught:
            download_first([url], quiet)
    assert url in caught.value.got
    assert list_cached(keras_home) == []


def test_download_uses_the_second_url_and_reports_the_failed_first(
    small_file: Path, server: WebServer, keras_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = server.serve("/bad", b"<html>sign in</html>")
    good = server.serve("/good", small_file.read_bytes())

    path = download_first([bad, good], Console(ConsoleOptions(verbose=True)))

    assert path.read_bytes() == small_file.read_bytes()
    assert list_cached(keras_home) == [path]
    assert server.requests == ["/bad", "/good"]
    assert f"{bad}: " in capsys.readouterr().err


def test_download_without_a_valid_url_is_refused_with_the_reason_of_each(
    server: WebServer, keras_home: Path, quiet: Console
) -> None:
    page, missing = server.serve("/page", b"<html>"), server.url + "/missing"
    with raises(HeadstartError, where="--weights imagenet") as caught:
        download_first([page, missing], quiet)
    first, second = caught.value.got.split("; ", 1)
    assert page in first
    assert missing in second
    assert "404" in second


def test_download_restores_the_socket_timeout(server: WebServer, keras_home: Path, quiet: Console) -> None:
    with pytest.raises(HeadstartError):
        download_first([server.url + "/missing"], quiet)
    assert socket.getdefaulttimeout() is None


def test_find_weights_imagenet_with_a_mirror_requests_only_the_mirror(
    small_file: Path, server: WebServer, keras_home: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.serve("/mirror/weights.h5", small_file.read_bytes())
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", url)

    found = find_weights("imagenet", quiet)

    assert (found.name, found.sha256) == (
        WeightsName.IMAGENET,
        hashlib.sha256(small_file.read_bytes()).hexdigest(),
    )
    assert found.path is not None
    assert found.path.is_relative_to(keras_home.resolve())
    assert server.requests == ["/mirror/weights.h5"]


def test_find_weights_imagenet_without_a_mirror_requests_the_course_then_keras(
    small_file: Path, server: WebServer, keras_home: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("/keras", small_file.read_bytes())
    monkeypatch.delenv("HEADSTART_WEIGHTS_URL", raising=False)
    monkeypatch.setattr("extract.weights.find.COURSE_URL", server.url + "/course")
    monkeypatch.setattr("extract.weights.find.KERAS_URL", server.url + "/keras")

    found = find_weights("imagenet", quiet)

    assert server.requests == ["/course", "/keras"]
    assert found.path == (keras_home / "models" / FILE_NAME).resolve(), "the place of the file in the cache of Keras"


@pytest.mark.unit
def test_find_weights_nsfwjs_downloads_the_package_once(
    installed: str, own_cache: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Weights(WeightsName.NSFWJS, own_cache / nsfwjs.PACKAGE.file, installed)

    assert find_weights("nsfwjs", quiet) == expected
    monkeypatch.setenv("PATH", "")
    assert find_weights("nsfwjs", quiet) == expected, "from the cache"


@pytest.mark.unit
def test_find_weights_nsfwjs_with_another_digest_is_refused_with_both(
    tmp_path: Path, own_cache: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path / "bin", f'printf other > "$5/{nsfwjs.PACKAGE.file}"', monkeypatch)
    with raises(HeadstartError, where=own_cache / nsfwjs.PACKAGE.file) as caught:
        find_weights("nsfwjs", quiet)
    assert "585cd178f3b9" in caught.value.expected
    assert "d9298a10d1b0" in caught.value.got


def test_find_weights_auto_prefers_imagenet(
    small_file: Path, server: WebServer, keras_home: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.serve("/w", small_file.read_bytes()))
    monkeypatch.setenv("PATH", "")
    assert find_weights("auto", quiet).name is WeightsName.IMAGENET


def test_find_weights_auto_without_imagenet_uses_nsfwjs_and_warns_even_if_quiet(
    installed: str,
    own_cache: Path,
    server: WebServer,
    keras_home: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.url + "/missing")
    found = find_weights("auto", quiet)

    assert found == Weights(WeightsName.NSFWJS, own_cache / nsfwjs.PACKAGE.file, installed)
    printed = capsys.readouterr()
    assert printed.out == ""
    (warning,) = list_warnings(printed.err)
    assert f"{server.url}/missing" in warning
    assert "nsfwjs" in warning


def test_find_weights_auto_without_any_source_is_refused_with_both_reasons(
    own_cache: Path, server: WebServer, keras_home: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.url + "/missing")
    monkeypatch.setenv("PATH", "")

    with raises(HeadstartError, where="--weights auto") as caught:
        find_weights("auto", quiet)

    assert f"{server.url}/missing" in caught.value.got
    assert "nsfwjs@4.4.0" in caught.value.got


def test_find_weights_auto_with_a_failing_npm_reports_the_last_line_of_npm(
    tmp_path: Path,
    own_cache: Path,
    server: WebServer,
    keras_home: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.url + "/missing")
    install_npm(tmp_path / "bin", "echo 'npm error code E403' >&2; exit 1", monkeypatch)
    with raises(HeadstartError, where="--weights auto") as caught:
        find_weights("auto", quiet)
    assert "npm error code E403" in caught.value.got
