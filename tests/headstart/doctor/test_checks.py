"""Checks of `doctor`: versions, environment, folders, weights, and checks that fail themselves."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from base.errors import NoLocksError
from extract.weights import nsfwjs
from extract.weights.find import FILE_NAME
from headstart.doctor import folders
from headstart.doctor.__main__ import list_checks
from headstart.doctor.environment import check_command, check_configuration, check_environment
from headstart.doctor.findings import Finding, Status, run_check
from headstart.doctor.folders import check_folder
from headstart.doctor.versions import check_python, check_requirements
from headstart.doctor.weights import check_weights
from tests.extract.webserver import WebServer, run_server

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with run_server() as site:
        yield site


def get_statuses(findings: Iterable[Finding]) -> dict[str, Status]:
    return {each.name: each.status for each in findings}


def test_check_that_fails_keeps_its_findings_and_adds_a_problem() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("first", "fine")
        raise ImportError("no such library\nsecond line")

    first, failed = run_check("libraries", check)
    assert first == Finding("first", "fine")
    assert (failed.name, failed.status) == ("libraries", Status.PROBLEM)
    assert "ImportError: no such library" in failed.value
    assert "second line" not in failed.value


def test_all_checks_find_no_problem_in_the_environment_of_the_tests() -> None:
    checks = list_checks()
    del checks["weights"]
    found = [each for group in checks.values() for name, check in group.items() for each in run_check(name, check)]
    assert [each for each in found if each.status is Status.PROBLEM] == []
    assert {"Python", "packages", "processor", "--precision auto", "cache"} <= {each.name for each in found}


def test_check_requirements_compares_versions_and_gives_the_command() -> None:
    lines = ["numpy>=2.0", "numpy<1.0", "no-such-package>=3"]
    right, wrong, missing = check_requirements([Requirement(line) for line in lines])
    assert (right.status, wrong.status, missing.status) == (Status.OK, Status.PROBLEM, Status.PROBLEM)
    assert "'numpy<1.0'" in wrong.advice
    assert "'no-such-package>=3'" in missing.advice


@pytest.mark.parametrize(("required", "status"), [(">=3.11", Status.OK), (">=4", Status.PROBLEM)])
def test_check_python_compares_the_version(required: str, status: Status) -> None:
    found = check_python(required, "Python {}")
    assert (found.status, platform.python_version() in found.value) == (status, True)


def test_check_command_of_another_environment_is_a_note(tmp_path: Path) -> None:
    assert check_command(None).status is Status.OK
    assert check_command(str(Path(sys.executable).with_name("headstart"))).status is Status.OK
    assert check_command(str(tmp_path / "headstart")).status is Status.NOTE


def test_check_environment_reports_another_backend_and_hides_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://maria:secret@proxy")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = {each.name: each for each in check_environment("jax")}
    assert found["KERAS_BACKEND"].status is Status.NOTE
    variables = found["environment variables"].value
    assert "OMP_NUM_THREADS=3" in variables
    assert "HTTPS_PROXY" in variables
    assert "secret" not in variables
    assert "KERAS_BACKEND" not in {each.name for each in check_environment("tensorflow")}


def test_check_folder_that_is_missing_is_checked_by_its_parent(tmp_path: Path) -> None:
    assert check_folder("cache", tmp_path).status is Status.OK
    assert check_folder("cache", tmp_path / "a/b").status is Status.OK
    assert list(tmp_path.iterdir()) == []


def test_check_folder_that_cannot_be_used_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert check_folder("cache", tmp_path / "file/below").status is Status.PROBLEM

    def refuse(folder: Path) -> None:
        raise NoLocksError(folder, "locks", "NFS without locks", "Use a local disk")

    monkeypatch.setattr(folders, "require_locks", refuse)
    found = check_folder("cache", tmp_path)
    assert (found.status, found.value, found.advice) == (Status.PROBLEM, "NFS without locks", "Use a local disk")

    monkeypatch.setattr(folders, "require_locks", lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**8))
        assert check_folder("cache", tmp_path).status is Status.PROBLEM


@pytest.mark.parametrize(
    ("number", "is_full"), [(errno.EACCES, False), (errno.EROFS, False), (errno.ENOSPC, True), (errno.EDQUOT, True)]
)
def test_check_folder_that_cannot_be_written_advises_to_free_space_only_if_the_disk_is_full(
    number: int, is_full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    found = check_folder("cache", tmp_path)
    assert (found.status, found.advice == folders.FREE_SPACE) == (Status.PROBLEM, is_full)


def test_caches_without_permission_are_problems_of_their_own(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if path.is_relative_to(caches):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, **options)

    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", "http://127.0.0.1:9/w.h5")
    monkeypatch.setattr(Path, "stat", refuse)
    assert get_statuses(folders.check_folders())["cache"] is Status.PROBLEM
    assert get_statuses(check_weights())["ImageNet weights"] is Status.PROBLEM


def test_check_folders_reports_a_removed_folder_and_checks_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))

    def fail() -> Path:
        raise FileNotFoundError(2, os.strerror(2))

    monkeypatch.setattr(Path, "cwd", fail)
    expected = {"current folder": Status.PROBLEM, "cache": Status.OK, "temporary folder": Status.OK}
    found = get_statuses(folders.check_folders())
    assert {name: status for name, status in found.items() if name != "work/"} == expected


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the caches of Keras and Headstart, `keras/models` and `cache`."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    (tmp_path / "keras/models").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    return tmp_path


def test_damaged_weights_in_a_cache_are_a_problem(
    caches: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.serve("/weights.h5", b"weights")
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", url)
    fallback = f"weights of {nsfwjs.PACKAGE}"
    assert set(get_statuses(check_weights()).values()) == {Status.OK}
    folder = caches / "keras/models" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.mkdir()
    for path in (folder / FILE_NAME, caches / "cache" / nsfwjs.PACKAGE.file):
        path.write_bytes(b"damaged")
    found = {each.name: each for each in check_weights()}
    assert found["ImageNet weights"].status is found[fallback].status is Status.PROBLEM
    assert str(folder / FILE_NAME) in found["ImageNet weights"].advice


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/missing", Status.PROBLEM),
        ("no url", Status.PROBLEM),
        ("http://a:b@c/w.h5", Status.PROBLEM),
        ("http://127.0.0.1:9/w.h5", Status.NOTE),
    ],
)
def test_wrong_mirror_is_a_problem_but_no_network_is_not(
    url: str, status: Status, caches: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_WEIGHTS_URL", server.url + url if url.startswith("/") else url)
    found = {each.name: each for each in check_weights() if each.name == "HEADSTART_WEIGHTS_URL"}
    assert found["HEADSTART_WEIGHTS_URL"].status is status


@pytest.mark.parametrize(("text", "status"), [("dropout = 0.5", Status.OK), ("dropuot = 0.5", Status.PROBLEM)])
def test_check_configuration_with_an_unknown_option_is_a_problem(
    text: str, status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headstart.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert get_statuses(check_configuration()) == {"configuration file": status}
