"""File names with control characters, undecodable bytes or markup are used unchanged, and printed escaped."""

from __future__ import annotations

import io
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest

from base.terminal import Console, make_printable
from features.store import FeatureStore
from tests.commands import CommandResult, run_command
from tests.inputs.folders import SMALL
from tests.pictures import draw_picture, encode

NAMES = {
    "spaces": "two words",
    "quotes": 'it\'s "quoted"',
    "newline": "line\nerror: the second",
    "return": "over\rwritten",
    "colours": "red\x1b[31m",
    "title": "\x1b]0;owned\x07",
    "clearing": "\x1b[2J\x1b[H",
    "eight_bit_sequence": "\x9b31m",
    "not_utf8": os.fsdecode(b"caf\xe9"),
    "cut_utf8": os.fsdecode(b"\xe7\x8c"),
    "other_letters": "\u732b \u03b3\u03ac\u03c4\u03b1",
    "markup": "[bold]name[red]",
    "emoji_code": ":cat:",
    "backslash": "back\\[bold]slash",
    "percent": "100%s{0}",
    "option": "--strict",
    "long": "x" * 240,
}
NESTED = "dogs/deep\x1b[7m\ner/1.jpg"
each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


@dataclass(frozen=True)
class Printed:
    """Results of commands on a folder in which good, bad and skipped files have each of the names."""

    folder: Path
    store: Path
    extract: CommandResult
    """With `--json` and `-v`: stdout has only the result."""
    predict: CommandResult
    """Without `--json`: stdout has the tables."""
    predict_json: CommandResult
    """With each good picture as an argument, and the folder of the bad ones."""

    @property
    def all(self) -> list[CommandResult]:
        """Results of all commands."""
        return [self.extract, self.predict, self.predict_json]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Printed:
    folder = tmp_path_factory.mktemp("names")
    pictures, store = folder / "pictures", folder / "store"
    (pictures / "cats").mkdir(parents=True)
    (pictures / NESTED).parent.mkdir(parents=True)
    for number, name in enumerate(NAMES.values()):
        (pictures / "cats" / f"{name}.jpg").write_bytes(encode(draw_picture("cats", number), "JPEG"))
        (pictures / "dogs" / f"{name}.jpg").write_bytes(b"")
        (pictures / "dogs" / f"{name}.svg").write_bytes(b"")
    (pictures / NESTED).write_bytes(encode(draw_picture("dogs", 0), "JPEG"))
    good = [pictures / "cats" / f"{name}.jpg" for name in NAMES.values()]
    options = ["--images", pictures, "--store", store, *SMALL, "--max-bad", 1, "-v", "--json"]
    predict = ["train_head.predict.__main__", "--model", str(tiny_model)]
    return Printed(
        pictures,
        store,
        run_command("extract.__main__", *options),
        run_command(*predict, pictures, "-v"),
        run_command(*predict, *good, pictures / "dogs", "-v", "--json"),
    )


def find_control_characters(text: str) -> set[str]:
    return {char for char in text if unicodedata.category(char) == "Cc" and char != "\n"}


def find_rows(text: str, path: str) -> list[list[str]]:
    """Return the other cells of the table rows that start with a path."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return [row[1:] for row in rows if row[0] == path]


def test_commands_have_the_exit_status_of_their_result(printed: Printed) -> None:
    assert [result.status for result in printed.all] == [0, 1, 1], printed.extract.err


def test_commands_print_no_control_characters(printed: Printed) -> None:
    for result in printed.all:
        assert find_control_characters(result.out) == set()
        assert find_control_characters(result.err) == set()
        assert not [line for line in (result.out + result.err).splitlines() if line.startswith("error: ")]


@each_name
def test_extract_prints_a_bad_picture_in_one_row(printed: Printed, name: str) -> None:
    assert find_rows(printed.extract.err, f"dogs/{make_printable(name)}.jpg") == [["an empty file"]]


@each_name
def test_extract_prints_a_skipped_file_in_one_line(printed: Printed, name: str) -> None:
    path = f"dogs/{make_printable(name)}.svg: "
    assert len([line for line in printed.extract.err.splitlines() if path in line]) == 1


def test_extract_warns_about_bad_and_skipped_pictures_in_one_line_each(printed: Printed) -> None:
    bad, skipped = printed.extract.warnings
    assert make_printable(printed.extract.json["failed"][0]["image"]) in bad
    assert make_printable(min(file["path"] for file in printed.extract.json["skipped"])) in skipped
    assert f" {len(NAMES)} " in bad
    assert f" {len(NAMES)} " in skipped


@each_name
def test_extract_json_has_the_unchanged_name(printed: Printed, name: str) -> None:
    result = printed.extract.json
    assert printed.extract.out.isascii()
    assert [failed["image"] for failed in result["failed"]].count(f"dogs/{name}.jpg") == 1
    assert [skipped["path"] for skipped in result["skipped"]].count(f"dogs/{name}.svg") == 1


def test_extract_stores_pictures_under_their_unchanged_names(printed: Printed) -> None:
    paths = [example.path for example in FeatureStore(printed.store).examples]
    assert sorted(paths) == sorted([*(f"cats/{name}.jpg" for name in NAMES.values()), NESTED])


@each_name
def test_predict_prints_classified_and_bad_pictures_in_one_row_each(printed: Printed, name: str) -> None:
    path = f"{make_printable(name)}.jpg"
    for text in (printed.predict.out, printed.predict_json.err):
        ((label, shares),) = find_rows(text, f"{printed.folder}/cats/{path}")
        best, probability, *_ = shares.replace(",", "").split()
        assert (label, best, 0.5 <= float(probability) <= 1) == ("cats", "cats", True)
        assert find_rows(text, f"{printed.folder}/dogs/{path}") == [["an empty file"]]


@each_name
def test_predict_json_has_the_unchanged_name(printed: Printed, name: str) -> None:
    result = printed.predict_json.json
    assert printed.predict_json.out.isascii()
    assert [failed["image"] for failed in result["failed"]].count(f"{printed.folder}/dogs/{name}.jpg") == 1
    assert [skipped["image"] for skipped in result["skipped"]].count(f"{printed.folder}/dogs/{name}.svg") == 1


def test_predict_keeps_names_and_order_of_its_arguments(printed: Printed) -> None:
    images = [found["image"] for found in printed.predict_json.json["predictions"]]
    assert images[:-1] == [f"{printed.folder}/cats/{name}.jpg" for name in NAMES.values()]
    assert images[-1] == f"{printed.folder}/{NESTED}"


def test_predict_missing_file_prints_its_name_escaped_in_one_line(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "\x1b[31mgone\nerror: x.jpg"
    result = run_command("train_head.predict.__main__", "--model", tiny_model, path)
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: {make_printable(str(path))}: ")
    assert find_control_characters(line) == set()


@pytest.mark.unit
def test_show_table_on_an_ascii_stream_prints_the_encodable_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    Console().show_table("pictures", [(f"cats/{NAMES['other_letters']}.jpg", "seen")])
    assert "cats/" in written.getvalue().decode("ascii")
    assert "seen" in written.getvalue().decode("ascii")
