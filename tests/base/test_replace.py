"""Replace a folder atomically, and complete interrupted replacements."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from base import replace as replace_module
from base.errors import HeadstartError, TargetLockedError
from base.replace import hold_target, recover_target, replace_folder
from base.target import LINKS, Names, Target
from tests.errors import raises
from tests.systems import needs_linux

NAMES: Names = {"a.txt": None, "b.txt": None, "inside": {"c.txt": None}}


class Killed(BaseException):
    """Raised in place of a kill."""


def accept(_: Path) -> None:
    pass


def refuse(path: Path) -> None:
    raise HeadstartError(path, "a file of Headstart", "a foreign file", "Move it")


def make_target(folder: Path, check: Callable[[Path], None] = accept) -> Target:
    return Target(folder, NAMES, check, "--out")


def fill(folder: Path, text: str, names: tuple[str, ...] = ("a.txt", "b.txt")) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(text)


def replace(folder: Path, text: str, names: tuple[str, ...] = ("a.txt", "b.txt"), archive: str = "") -> None:
    with replace_folder(make_target(folder)) as replacement:
        fill(replacement.staging, text, names)
        replacement.commit(archive)


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir()) if path.is_file()}


def list_hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.unit
def test_replace_folder_missing_target_is_created(tmp_path: Path) -> None:
    replace(tmp_path / "deep" / "out", "new")
    assert read(tmp_path / "deep" / "out") == {"a.txt": "new", "b.txt": "new"}
    assert list_hidden(tmp_path / "deep") == []


@pytest.mark.unit
def test_replace_folder_removes_old_entries(tmp_path: Path) -> None:
    replace(tmp_path / "out", "old")
    replace(tmp_path / "out", "new", ("a.txt",))
    assert read(tmp_path / "out") == {"a.txt": "new"}
    assert list_hidden(tmp_path) == []


@pytest.mark.unit
def test_replace_folder_without_commit_keeps_the_target(tmp_path: Path) -> None:
    replace(tmp_path / "out", "old")
    with replace_folder(make_target(tmp_path / "out")) as replacement:
        fill(replacement.staging, "new")
    assert read(tmp_path / "out") == {"a.txt": "old", "b.txt": "old"}
    assert list_hidden(tmp_path) == []


@pytest.mark.unit
def test_replace_folder_keeps_other_files(tmp_path: Path) -> None:
    replace(tmp_path / "out", "old")
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    inode = (tmp_path / "out" / "thesis.txt").stat().st_ino
    replace(tmp_path / "out", "new", ("b.txt",))
    assert read(tmp_path / "out") == {"b.txt": "new", "thesis.txt": "mine"}
    assert (tmp_path / "out" / "thesis.txt").stat().st_ino == inode


@pytest.mark.unit
def test_replace_folder_foreign_content_is_an_error_and_unchanged(tmp_path: Path) -> None:
    fill(tmp_path / "out", "theirs")
    with raises(HeadstartError, where=tmp_path / "out"), replace_folder(make_target(tmp_path / "out", refuse)):
        pytest.fail("opened")
    assert read(tmp_path / "out") == {"a.txt": "theirs", "b.txt": "theirs"}
    assert list_hidden(tmp_path) == []


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["link", "folder", "nested"])
def test_replace_folder_entry_of_another_kind_is_an_error(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if kind == "link":
        (out / "a.txt").symlink_to(tmp_path / "victim")
    elif kind == "folder":
        (out / "a.txt").mkdir()
    else:
        (out / "inside").mkdir()
        (out / "inside" / "thesis.txt").write_text("mine")
    foreign = out / "inside" / "thesis.txt" if kind == "nested" else out / "a.txt"
    with raises(HeadstartError, where=foreign), replace_folder(make_target(out)):
        pytest.fail("opened")


@pytest.mark.unit
def test_replace_folder_link_is_followed(tmp_path: Path) -> None:
    replace(tmp_path / "real", "old")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    replace(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink()
    assert read(tmp_path / "real") == {"a.txt": "new", "b.txt": "new"}


@pytest.mark.unit
def test_replace_folder_current_directory_keeps_its_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(tmp_path / "out", "old")
    monkeypatch.chdir(tmp_path / "out")
    inode = Path.cwd().stat().st_ino
    replace(Path(), "new")
    assert Path.cwd().stat().st_ino == inode
    assert read(Path.cwd()) == {"a.txt": "new", "b.txt": "new"}


@pytest.mark.unit
@pytest.mark.parametrize("has_other_file", [False, True])
def test_replace_folder_archive_has_the_old_entries(tmp_path: Path, has_other_file: bool) -> None:
    replace(tmp_path / "out", "old")
    if has_other_file:
        (tmp_path / "out" / "thesis.txt").write_text("mine")
    replace(tmp_path / "out", "new", archive="out-before")
    assert read(tmp_path / "out-before") == {"a.txt": "old", "b.txt": "old"}
    assert read(tmp_path / "out")["a.txt"] == "new"
    assert (tmp_path / "out" / "thesis.txt").exists() == has_other_file


def test_replace_folder_locked_by_another_process_is_an_error(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from base.replace import Target, hold_target\n"
        f"with hold_target(Target(Path({str(tmp_path / 'out')!r}), {{}}, print, '--out')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline().strip() == b"held"
        with (
            raises(TargetLockedError, where=tmp_path / "out") as caught,
            replace_folder(make_target(tmp_path / "out")),
        ):
            pytest.fail("opened")
        assert str(other.pid) in caught.value.got
        other.stdin.close()
        other.wait()
    replace(tmp_path / "out", "new")
    assert list_hidden(tmp_path) == []


@pytest.mark.unit
def test_hold_target_foreign_lock_file_is_an_error_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / ".out.lock").write_text("mine")
    with raises(HeadstartError, where=tmp_path / "out"), hold_target(make_target(tmp_path / "out")):
        pytest.fail("held")
    assert (tmp_path / ".out.lock").read_text() == "mine"


@pytest.mark.unit
def test_replace_folder_keeps_a_foreign_folder_with_the_name_of_a_staging_folder(tmp_path: Path) -> None:
    fill(tmp_path / ".partial-out-mine", "mine")
    fill(tmp_path / ".partial-out", "mine")
    replace(tmp_path / "out", "new")
    assert read(tmp_path / ".partial-out-mine") == read(tmp_path / ".partial-out") == {"a.txt": "mine", "b.txt": "mine"}


def kill_command(folder: Path, killed_at: int, archive: str = "", is_committed: bool = True) -> int:
    """Replace a folder with a command that is killed after a number of changes to the disk.

    Returns:
        The number of changes that were still allowed at the end; negative if the command was killed.
    """
    with pytest.MonkeyPatch.context() as patch:
        left = [sys.maxsize]
        with contextlib.suppress(Killed), replace_folder(make_target(folder)) as replacement:
            fill(replacement.staging, "new", ("b.txt",))
            left = kill_after(patch, killed_at)
            if not is_committed:
                raise Killed
            replacement.commit(archive)
        return left[0]


@pytest.mark.unit
def test_hold_target_removes_the_staging_folder_of_a_killed_command(tmp_path: Path) -> None:
    replace(tmp_path / "out", "old")
    kill_command(tmp_path / "out", 0, is_committed=False)
    assert any(name.startswith(".partial-out-") for name in list_hidden(tmp_path))
    with hold_target(make_target(tmp_path / "out")):
        pass
    assert list_hidden(tmp_path) == []
    assert read(tmp_path / "out") == {"a.txt": "old", "b.txt": "old"}


@pytest.mark.parametrize("archive", ["", "out-before"])
@pytest.mark.parametrize("has_other_file", [False, True])
@pytest.mark.parametrize("has_exchange", [False, True])
def test_recover_target_after_a_kill_at_any_change_completes_the_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_exchange: bool, has_other_file: bool, archive: str
) -> None:
    if not has_exchange:
        monkeypatch.setattr(replace_module, "exchange", lambda first, second: False)
    # The first change writes the plan.
    for number in range(1, 20):
        out = tmp_path / str(number) / "out"
        replace(out, "old")
        if has_other_file:
            (out / "thesis.txt").write_text("mine")
        if kill_command(out, number, archive) >= 0:
            break
        recover_target(make_target(out))
        other = {"thesis.txt": "mine"} if has_other_file else {}
        assert read(out) == {"b.txt": "new", **other}
        with hold_target(make_target(out)):
            pass
        assert list_hidden(out.parent) == []
        if archive:
            assert read(out.parent / archive) == {"a.txt": "old", "b.txt": "old"}
    assert number > 1


@pytest.mark.unit
def test_hold_target_leaves_the_replacement_of_a_folder_of_the_same_name_in_it(tmp_path: Path) -> None:
    for number in range(1, 20):
        outer = tmp_path / str(number) / "out"
        replace(outer, "outer")
        replace(outer / "out", "old")
        (outer / "out" / "thesis.txt").write_text("mine")
        if kill_command(outer / "out", number) >= 0:
            break
        with hold_target(make_target(outer)):
            pass
        recover_target(make_target(outer / "out"))
        assert read(outer / "out") == {"b.txt": "new", "thesis.txt": "mine"}
        assert read(outer).items() >= {"a.txt": "outer", "b.txt": "outer"}.items()
    assert number > 1


def kill_after(patch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Allow a number of changes to the disk, then raise Killed before each change.

    Returns:
        A list whose only element is the number of changes left; each change decreases it.
    """
    left = [number]

    def wrap(module: object, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **options)

        patch.setattr(module, name, call)

    for name in ("replace", "unlink", "rmdir"):
        wrap(os, name)
    wrap(replace_module, "exchange")
    return left


@pytest.mark.unit
def test_replace_folder_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(HeadstartError, where=tmp_path / "file/out"), replace_folder(make_target(tmp_path / "file/out")):
        pytest.fail("opened")


@needs_linux
def test_replace_folder_mount_point_exchanges_its_entries(tmp_path: Path) -> None:
    out = tmp_path / "with space"
    out.mkdir()
    code = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path\n"
        "from tests.base.test_replace import read, replace\n"
        "out = Path(sys.argv[1]); replace(out, 'old'); (out / 'mine').write_text('mine'); replace(out, 'new')\n"
        "replace(out, 'newer', archive='before')\n"
        "assert read(out) == {'a.txt': 'newer', 'b.txt': 'newer', 'mine': 'mine'}, read(out)\n"
        "assert read(out / 'before')['a.txt'] == 'new'"
    )
    for mount in ("mount -t tmpfs tmpfs", 'mount --bind "$0"'):
        script = f'{mount} "$0" && exec {sys.executable} -c "$1" "$0"'
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, str(out), code],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip(f"no mount namespace here: {done.stderr}")
        assert done.returncode == 0, done.stderr


def link_pictures(folder: Path, pictures: list[Path]) -> None:
    with replace_folder(Target(folder, {"links": LINKS}, accept, "--out")) as replacement:
        (replacement.staging / "links").mkdir()
        for picture in pictures:
            (replacement.staging / "links" / f"soft-{picture.name}").symlink_to(picture)
            (replacement.staging / "links" / f"hard-{picture.name}").hardlink_to(picture)
        replacement.commit()


@pytest.mark.unit
def test_replace_folder_of_links_replaces_them_and_keeps_the_files(tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("a.jpg", "b.jpg")]
    fill(tmp_path, "picture", ("a.jpg", "b.jpg"))
    link_pictures(tmp_path / "out", pictures)
    link_pictures(tmp_path / "out", pictures[1:])
    assert sorted(path.name for path in (tmp_path / "out/links").iterdir()) == ["hard-b.jpg", "soft-b.jpg"]
    assert [path.read_text() for path in pictures] == ["picture", "picture"]


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["file", "folder", "last link"])
def test_replace_folder_of_links_with_another_entry_is_refused(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, "picture", ("a.jpg",))
    link_pictures(tmp_path / "out", [tmp_path / "a.jpg"])
    foreign = tmp_path / "out/links/foreign"
    if kind == "file":
        foreign.write_text("mine")
    elif kind == "folder":
        foreign.mkdir()
    else:
        (tmp_path / "a.jpg").unlink()
        foreign = tmp_path / "out/links/hard-a.jpg"
    with raises(HeadstartError, where=foreign):
        link_pictures(tmp_path / "out", [])
    assert foreign.exists()
