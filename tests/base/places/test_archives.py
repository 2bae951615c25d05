"""Members of zip and tar files, also of damaged and hostile ones."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from base.errors import HeadstartError
from base.places.archives import ENCRYPTED, LINK, OUTSIDE_ARCHIVE, REPLACED, Archive, MemberError, open_archive
from base.places.sources import open_source
from tests.archives import write_tar, write_zip
from tests.errors import raises

pytestmark = pytest.mark.unit

FILES = {f"cats/{number}.jpg": bytes([number]) * (1000 + number) for number in range(20)}
LIMIT = 2**20


def open_file(path: Path) -> Archive:
    return open_archive(open_source(str(path)), "zip" if path.suffix == ".zip" else "tar")


def list_problems(archive: Archive) -> dict[str, str]:
    return {entry.path: entry.problem for entry in archive.entries if entry.problem}


@pytest.mark.parametrize(("name", "mode"), [("a.zip", ""), ("a.tar", "w"), ("a.tgz", "w:gz"), ("a.tar.xz", "w:xz")])
def test_archive_gives_the_bytes_of_each_member(name: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_tar(path, FILES, mode) if mode else write_zip(path, FILES)
    archive = open_file(path)
    assert {entry.path: archive.read(entry.path, LIMIT) for entry in archive.entries} == FILES
    assert [entry.num_bytes for entry in archive.entries] == [*map(len, FILES.values())]
    with pytest.raises(MemberError):
        archive.read("cats/1.jpg", 1000)
    with pytest.raises(MemberError):
        archive.read("dogs/1.jpg", LIMIT)


def test_members_outside_the_archive_and_links_are_not_read(tmp_path: Path) -> None:
    link = tarfile.TarInfo("cats/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for member in (tarfile.TarInfo("../out.jpg"), tarfile.TarInfo("/abs.jpg"), link, tarfile.TarInfo("./in.jpg")):
            file.addfile(member)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        shortcut = zipfile.ZipInfo("cats/link.jpg")
        shortcut.external_attr = 0o120777 << 16
        packed.writestr(shortcut, "/etc/passwd")
        packed.writestr("../out.jpg", "")
        packed.writestr("/abs.jpg", "")
        packed.writestr("in.jpg", "")
    for name in ("a.tar", "a.zip"):
        archive = open_file(tmp_path / name)
        expected = {"../out.jpg": OUTSIDE_ARCHIVE, "/abs.jpg": OUTSIDE_ARCHIVE, "cats/link.jpg": LINK}
        assert list_problems(archive) == expected
        assert archive.read("in.jpg", LIMIT) == b""
        for path in expected:
            with pytest.raises(MemberError):
                archive.read(path, LIMIT)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_last_of_two_members_with_one_path_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed, tarfile.open(tmp_path / "a.tar", "w") as file:
        for data in (b"first", b"second"):
            packed.writestr("a.jpg", data)
            member = tarfile.TarInfo("a.jpg")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    for name in ("a.zip", "a.tar"):
        archive = open_file(tmp_path / name)
        assert [entry.problem for entry in archive.entries] == [REPLACED, ""]
        assert archive.read("a.jpg", LIMIT) == b"second"


def test_damaged_and_encrypted_members_of_a_zip_file_fail_alone(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.zip", FILES).read_bytes())
    first, last = data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02")
    # Flag 1 of the last entry of the directory is encryption. The first member begins after its header of 30 bytes.
    data[last + 8] |= 1
    data[30 + len("cats/0.jpg") + 5] ^= 255
    assert first > 100
    (tmp_path / "a.zip").write_bytes(data)
    archive = open_file(tmp_path / "a.zip")
    with pytest.raises(MemberError):
        archive.read("cats/0.jpg", LIMIT)
    with pytest.raises(MemberError, match=ENCRYPTED):
        archive.read("cats/19.jpg", LIMIT)
    assert archive.read("cats/1.jpg", LIMIT) == FILES["cats/1.jpg"]


def test_false_size_of_a_zip_member_is_not_decompressed(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.zip", {"a.jpg": bytes(2**24)}).read_bytes())
    # The size of 16 MB in the directory becomes 5 bytes.
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = (5).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    archive = open_file(tmp_path / "a.zip")
    with pytest.raises(MemberError):
        archive.read("a.jpg", LIMIT)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_truncated_archive_is_refused_as_a_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_zip(path, FILES) if name == "a.zip" else write_tar(path, FILES, "w:gz" if name == "a.tgz" else "w")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with raises(HeadstartError, where=path):
        open_file(path)


def test_tar_file_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    data = bytearray(write_tar(tmp_path / "a.tar", FILES).read_bytes())
    data[1536 * 5 + 20] ^= 255
    (tmp_path / "a.tar").write_bytes(data)
    with raises(HeadstartError, where=tmp_path / "a.tar"):
        open_file(tmp_path / "a.tar")


def test_changed_member_has_another_number(tmp_path: Path) -> None:
    before = open_file(write_zip(tmp_path / "a.zip", FILES)).entries
    after = open_file(write_zip(tmp_path / "a.zip", FILES | {"cats/3.jpg": b"x" * 1003})).entries
    changed = [new.path for old, new in zip(before, after, strict=True) if old.modified_ns != new.modified_ns]
    assert changed == ["cats/3.jpg"]
