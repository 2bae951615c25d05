"""Download of npm packages, with a shell script in place of npm."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import HeadstartError
from base.npm import NpmPackage, fetch_package, find_cache_folder
from tests.errors import raises
from tests.fake_npm import install_npm
from tests.systems import needs_posix

pytestmark = pytest.mark.unit

PACKAGE = NpmPackage("@scope/parts", "1.2.3", "")


@needs_posix
def test_fetch_package_runs_npm_pack_with_the_exact_version_and_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'echo "$@" > "{tmp_path}/arguments"; printf packed > "$5/{PACKAGE.file}"'
    install_npm(tmp_path / "bin", script, monkeypatch)

    path = fetch_package(PACKAGE, tmp_path / "cache", "or wait")

    assert path == tmp_path / "cache" / "scope-parts-1.2.3.tgz"
    assert path.read_bytes() == b"packed"
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:4] == ["pack", "--loglevel=error", "@scope/parts@1.2.3", "--pack-destination"]
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [PACKAGE.file]


def test_fetch_package_in_the_cache_needs_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PACKAGE.file).write_bytes(b"kept")
    monkeypatch.setenv("PATH", "")
    assert fetch_package(PACKAGE, tmp_path, "or wait").read_bytes() == b"kept"


def test_fetch_package_without_npm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises(HeadstartError, where="@scope/parts@1.2.3", got="none"):
        fetch_package(PACKAGE, tmp_path / "cache", "or wait")


@needs_posix
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo trying >&2; echo 'npm error ENOTFOUND' >&2; exit 3", ["3", "npm error ENOTFOUND"]),
        ("echo 'only on stdout'; exit 1", ["1", "only on stdout"]),
        ("exit 0", ["0"]),
        ("echo 'npm error FetchError: no answer' >&2; echo 'npm error A log' >&2; exit 1", ["FetchError: no answer"]),
    ],
)
def test_fetch_package_with_a_failing_npm_reports_status_and_last_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: list[str]
) -> None:
    install_npm(tmp_path / "bin", script, monkeypatch)
    with raises(HeadstartError, where="@scope/parts@1.2.3") as caught:
        fetch_package(PACKAGE, tmp_path / "cache", "or wait")
    assert [value for value in expected if value in caught.value.got] == expected
    assert "trying" not in caught.value.got
    assert list((tmp_path / "cache").iterdir()) == []


@needs_posix
def test_fetch_package_after_an_interrupted_download_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache/fetching").mkdir(parents=True)
    (tmp_path / "cache/fetching" / PACKAGE.file).write_bytes(b"half")
    install_npm(tmp_path / "bin", f'printf whole > "$5/{PACKAGE.file}"', monkeypatch)
    assert fetch_package(PACKAGE, tmp_path / "cache", "or wait").read_bytes() == b"whole"


def test_find_cache_folder_prefers_headstart_cache_then_xdg_cache_home_then_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert find_cache_folder() == Path("/own")
    monkeypatch.delenv("HEADSTART_CACHE")
    assert find_cache_folder() == Path("/xdg/headstart")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert find_cache_folder() == Path.home() / ".cache/headstart"
