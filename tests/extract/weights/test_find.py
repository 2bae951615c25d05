"""Finding weights: by name, from local HTTP servers, from a file, or whatever can be had."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from base.terminal import Console, ConsoleOptions
from extract.weights.find import (
    FILE_NAME,
    Weights,
    WeightsName,
    check_weights_argument,
    download_first,
    find_cache_folder,
    find_weights,
)
from extract.weights.nsfwjs import PACKAGE_FILE
from tests.extract.fake_npm import install_npm
from tests.extract.webserver import WebServer
from tests.extract.weight_files import draw_small_layers, draw_tensors, write_legacy_file, write_package


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that passes for InceptionV3's by its layers, small enough to be served often."""
    return write_legacy_file(tmp_path_factory.mktemp("small") / "small.h5", draw_small_layers(188))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def list_cached(keras_home: Path) -> list[Path]:
    return [path for path in keras_home.rglob("*") if path.is_file()]


def pack_and_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes a small package that a fake npm hands out, pins its digest, and returns that."""
    package = write_package(folder / "made.tgz", draw_tensors([(3, 3, 4, 8), (1, 1, 8, 16)] * 47))
    install_npm(folder / "bin", f'cp "{package}" "$5/{PACKAGE_FILE}"', monkeypatch)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    monkeypatch.setattr("extract.weights.nsfwjs.PACKAGE_SHA256", digest)
    return digest


@pytest.mark.parametrize("name", ["auto", "imagenet", "nsfwjs", "random"])
def test_check_weights_argument_known_name_passes(name: str) -> None:
    check_weights_argument(name)


def test_check_weights_argument_sound_file_passes(small_file: Path) -> None:
    check_weights_argument(str(small_file))


@pytest.mark.parametrize(("weights", "got"), [("imagnet", "no such file"), ("file", "no such file"), (".", "a folder")])
def test_check_weights_argument_neither_name_nor_file_raises_usage_error(weights: str, got: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_weights_argument(weights)
    assert raised.value.exit_status == 2
    assert str(raised.value) == (
        f"--weights {weights}: expected auto, imagenet, nsfwjs, random or a weights file, got {got}. Check the path."
    )


def test_check_weights_argument_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"<html>")
    with pytest.raises(HeadstartError, match="got a web page"):
        check_weights_argument(str(tmp_path / "w.h5"))


def test_find_weights_random_needs_no_file(quiet: Console) -> None:
    found = find_weights("random", quiet)
    assert found == Weights(WeightsName.RANDOM)
    assert str(found) == "random"


def test_find_weights_file_gives_its_resolved_path_and_digest(
    small_file: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_file.parent)
    digest = hashlib.sha256(small_file.read_bytes()).hexdigest()

    found = find_weights("small.h5", quiet)

    assert found == Weights(WeightsName.FILE, small_file.resolve(), digest)
    assert str(found) == f"file ({small_file.resolve()}, SHA-256 {digest[:12]}…)"


def test_find_weights_file_that_is_the_npm_package_is_told_by_its_content(tmp_path: Path, quiet: Console) -> None:
    package = write_package(tmp_path / "renamed.bin", draw_tensors([(1, 1, 8, 16)] * 94))
    found = find_weights(str(package), quiet)
    assert (found.name, found.path) == (WeightsName.NSFWJS, package)


def test_download_good_file_arrives_whole_in_the_cache_and_is_asked_for_once(
    legacy_file: Path, server: WebServer, keras_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.serve("/weights.h5", legacy_file.read_bytes())

    path = download_first([url], Console())
    again = download_first([url], Console())

    assert path == again == keras_home / "models" / hashlib.sha256(url.encode()).hexdigest()[:16] / FILE_NAME
    with path.open("rb") as found, legacy_file.open("rb") as served:
        assert hashlib.file_digest(found, "md5").digest() == hashlib.file_digest(served, "md5").digest()
    assert server.requests == ["/weights.h5"]
    assert capsys.readouterr().out == "", "stdout belongs to the result"


@pytest.mark.parametrize("is_official", [True, False])
def test_find_weights_downloaded_says_and_records_whether_it_is_the_official_file(
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
    remark = "" if is_official else ", NOT THE OFFICIAL FILE"
    assert str(found) == f"imagenet{remark} ({found.path}, SHA-256 {found.sha256[:12]}…)"
    err = capsys.readouterr().err
    assert (f"warning: {found.path}" in err) is not is_official


def test_find_weights_of_another_digest_than_asked_for_is_refused_with_both(small_file: Path, quiet: Console) -> None:
    digest = hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert find_weights(str(small_file), quiet, digest.upper()).sha256 == digest
    other = "0" * 64
    with pytest.raises(HeadstartError) as raised:
        find_weights(str(small_file), quiet, other)
    assert f"expected a file with SHA-256 {other}, got {small_file} with {digest}." in str(raised.value)
    with pytest.raises(HeadstartError, match="expected a file with SHA-256 .*, got no file"):
        find_weights("random", quiet, other)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("longer than it is", "retrieval incomplete"),
        ("honest", "cut off or damaged"),
        ("page", "got a web page"),
        ("404", "404"),
        ("503", "503"),
        ("empty", "got an empty file"),
        ("with a top", "189 layers with weights (it has a top)"),
    ],
)
def test_download_bad_file_is_refused_with_its_reason_and_not_kept(
    fault: str,
    told: str,
    small_file: Path,
    server: WebServer,
    keras_home: Path,
    quiet: Console,
    tmp_path: Path,
) -> None:
    good = small_file.read_bytes()
    match fault:
        case "longer than it is":
            url = server.serve("/w", good[:50_000], declared=len(good))
        case "honest":
            url = server.serve("/w", good[:50_000])
        case "page":
            url = server.serve("/w", b"<!DOCTYPE html><title>Sign in</title>")
        case "with a top":
            url = server.serve("/w", write_legacy_file(tmp_path / "t.h5", draw_small_layers(189)).read_bytes())
        case "empty":
            url = server.serve("/w", b"")
        case status:
            url = server.serve("/w", b"sorry", status=int(status))

    with pytest.raises(HeadstartError) as raised:
        download_first([url], quiet)

    message = str(raised.value)
    assert message.startswith(f"--weights imagenet: expected {FILE_NAME}, got ")
    assert message.count(url) == 1
    assert told in message
    assert message.endswith("Check the network, or give --weights FILE (WEIGHTS=FILE).")
    assert list_cached(keras_home) == []

    server.serve("/w", good)
    assert download_first([url], quiet).read_bytes() == good


def test_download_refused_connection_is_told(keras_home: Path, quiet: Console) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/w"
        with pytest.raises(HeadstartError, match="Connection refused"):
            download_first([url], quiet)
    assert list_cached(keras_home) == []


def test_download_first_url_bad_takes_the_second_and_tells_of_the_first(
    small_file: Path, server: WebServer, keras_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = server.serve("/bad", b"<html>sign in</html>")
    good = server.serve("/good", small_file.read_bytes())

    path = download_first([bad, good], Console(ConsoleOptions(verbose=True)))

    assert path.read_bytes() == small_file.read_bytes()
    assert list_cached(keras_home) == [path]
    assert server.requests == ["/bad", "/good"]
    assert f"{bad}: expected a weights file, got " in capsys.readouterr().err


def test_download_all_urls_bad_names_each_with_what_came(server: WebServer, keras_home: Path, quiet: Console) -> None:
    page, missing = server.serve("/page", b"<html>"), server.url + "/missing"
    with pytest.raises(HeadstartError) as raised:
        download_first([page, missing], quiet)
    first, second = str(raised.value).split(", got ", 1)[1].split("; ", 1)
    assert first.startswith("a web page")
    assert first.endswith(page)
    assert missing in second
    assert "404" in second


def test_download_leaves_the_socket_timeout_as_it_was(server: WebServer, keras_home: Path, quiet: Console) -> None:
    with pytest.raises(HeadstartError):
        download_first([server.url + "/missing"], quiet)
    assert socket.getdefaulttimeout() is None


def test_find_weights_imagenet_asks_the_mirror_alone_where_one_is_set(
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


def test_find_weights_imagenet_without_a_mirror_asks_the_course_then_keras(
    small_file: Path, server: WebServer, keras_home: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("/keras", small_file.read_bytes())
    monkeypatch.delenv("HEADSTART_WEIGHTS_URL", raising=False)
    monkeypatch.setattr("extract.weights.find.COURSE_URL", server.url + "/course")
    monkeypatch.setattr("extract.weights.find.KERAS_URL", server.url + "/keras")

    found = find_weights("imagenet", quiet)

    assert server.requests == ["/course", "/keras"]
    assert found.path == (keras_home / "models" / FILE_NAME).resolve(), "Keras's own place for that file"


def test_find_weights_nsfwjs_gives_the_pinned_package_from_the_cache(
    tmp_path: Path, own_cache: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = pack_and_install(tmp_path, monkeypatch)
    expected = Weights(WeightsName.NSFWJS, own_cache / PACKAGE_FILE, digest)

    assert find_weights("nsfwjs", quiet) == expected
    monkeypatch.setenv("PATH", "")
    assert find_weights("nsfwjs", quiet) == expected, "fetched once, kept"


def test_find_weights_nsfwjs_other_bytes_than_the_pinned_are_refused(
    tmp_path: Path, own_cache: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path / "bin", f'printf other > "$5/{PACKAGE_FILE}"', monkeypatch)
    with pytest.raises(HeadstartError) as raised:
        find_weights("nsfwjs", quiet)
    assert "with SHA-256 585cd178f3b9…, got SHA-256 d9298a10d1b0…. Move it out of the cache" in str(raised.value)


def test_find_weights_auto_takes_imagenet_where_it_can_be_had(
    small_file: Path, server: WebServer, keras_home: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.serve("/w", small_file.read_bytes()))
    monkeypatch.setenv("PATH", "")
    assert find_weights("auto", quiet).name is WeightsName.IMAGENET


def test_find_weights_auto_without_imagenet_takes_nsfwjs_and_warns_even_when_quiet(
    tmp_path: Path,
    own_cache: Path,
    server: WebServer,
    keras_home: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.url + "/missing")
    digest = pack_and_install(tmp_path, monkeypatch)

    found = find_weights("auto", quiet)

    assert found == Weights(WeightsName.NSFWJS, own_cache / PACKAGE_FILE, digest)
    said = capsys.readouterr()
    assert said.out == ""
    (warning,) = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    assert f"{server.url}/missing" in warning
    assert "USING `nsfwjs` INSTEAD" in warning
    assert "WEIGHTS=FILE" in warning


def test_find_weights_auto_with_neither_names_both_and_what_to_do(
    own_cache: Path, server: WebServer, keras_home: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.url + "/missing")
    monkeypatch.setenv("PATH", "")

    with pytest.raises(HeadstartError) as raised:
        find_weights("auto", quiet)

    assert raised.value.where == "--weights auto"
    assert f"{server.url}/missing" in raised.value.got
    assert "npm on the PATH" in raised.value.got
    assert "--weights FILE" in raised.value.advice


def test_find_weights_auto_with_a_failing_npm_gives_npms_last_line(
    tmp_path: Path,
    own_cache: Path,
    server: WebServer,
    keras_home: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.url + "/missing")
    install_npm(tmp_path / "bin", "echo 'npm error code E403' >&2; exit 1", monkeypatch)
    with pytest.raises(HeadstartError, match="exit status 1: npm error code E403"):
        find_weights("auto", quiet)


def test_find_cache_folder_prefers_its_own_variable_then_the_users_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert find_cache_folder() == Path("/own")
    monkeypatch.delenv("HEADSTART_CACHE")
    assert find_cache_folder() == Path("/xdg/headstart")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert find_cache_folder() == Path(os.environ["HOME"]) / ".cache/headstart"
