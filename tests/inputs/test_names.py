"""Names of files that a terminal would obey or could not show: taken as they are, and never printed as they are."""

from __future__ import annotations

import io
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest

from base.terminal import Console, make_printable
from features.store import FeatureStore
from tests.inputs.commands import EXTRACT, PREDICT, SMALL, Done, finish, start
from tests.inputs.folders import run_here
from tests.pictures import draw_picture, encode
from train_head.config import PredictConfig
from train_head.predict.__main__ import predict as predict_files

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
names = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


@dataclass(frozen=True)
class Said:
    """What the commands say of a folder in which good, bad and skipped files have each of the names."""

    folder: Path
    store: Path
    extract: Done
    """With `--json` and `-v`: all but the result is on stderr."""
    predict: Done
    """Without: its tables are on stdout."""
    predict_json: Done
    """Of the good ones by their names, and the folder of the bad."""

    @property
    def all(self) -> list[Done]:
        return [self.extract, self.predict, self.predict_json]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Said:
    folder = tmp_path_factory.mktemp("names")
    pictures, store = folder / "pictures", folder / "store"
    for path in ("cats", "dogs/deep\x1b[7m\ner"):
        (pictures / path).mkdir(parents=True)
    for number, name in enumerate(NAMES.values()):
        (pictures / "cats" / f"{name}.jpg").write_bytes(encode(draw_picture("cats", number), "JPEG"))
        (pictures / "dogs" / f"{name}.jpg").write_bytes(b"")
        (pictures / "dogs" / f"{name}.heic").write_bytes(b"")
    (pictures / "dogs/deep\x1b[7m\ner/1.jpg").write_bytes(encode(draw_picture("dogs", 0), "JPEG"))
    good = [pictures / "cats" / f"{name}.jpg" for name in NAMES.values()]
    running = [
        start(EXTRACT, "--images", pictures, "--store", store, *SMALL, "--max-bad", 1, "-v", "--json"),
        start(PREDICT, "--model", tiny_model, pictures, "-v"),
    ]
    extract, predict = map(finish, running)
    named = PredictConfig([*good, pictures / "dogs"], tiny_model)
    return Said(pictures, store, extract, predict, run_here(predict_files, named))


def find_commanding(text: str) -> set[str]:
    """Characters that a terminal would obey, but for the ends of lines."""
    return {char for char in text if unicodedata.category(char) == "Cc" and char != "\n"}


def find_lines(text: str, shown: str) -> list[str]:
    return [line for line in text.splitlines() if shown in line]


def find_cells(text: str, shown: str) -> list[list[str]]:
    """The rows of tables that are of a file."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return [row[1:] for row in rows if row[0] == shown]


def test_commands_end_as_they_should(said: Said) -> None:
    assert [done.status for done in said.all] == [0, 1, 1], said.extract.err


def test_commands_never_print_what_a_terminal_would_obey(said: Said) -> None:
    for done in said.all:
        assert find_commanding(done.out) == set()
        assert find_commanding(done.err) == set()
        assert not [line for line in (done.out + done.err).splitlines() if line.startswith("error: ")]


@names
def test_extract_shows_a_bad_picture_in_one_line_of_its_table(said: Said, name: str) -> None:
    assert find_cells(said.extract.err, f"dogs/{make_printable(name)}.jpg") == [["an empty file"]]


@names
def test_extract_shows_a_skipped_file_in_one_line(said: Said, name: str) -> None:
    assert len(find_lines(said.extract.err, f"skipped dogs/{make_printable(name)}.heic: ")) == 1


def test_extract_warns_in_one_line_of_bad_and_of_skipped_pictures(said: Said) -> None:
    warnings = [line for line in said.extract.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert make_printable(said.extract.result["failed"][0]["image"]) in warnings[0]
    assert make_printable(min(skipped["path"] for skipped in said.extract.result["skipped"])) in warnings[1]
    assert all(f"{len(NAMES)} pictures" in line for line in warnings)


@names
def test_extract_json_has_the_name_as_it_is(said: Said, name: str) -> None:
    result = said.extract.result
    assert said.extract.out.isascii()
    assert [failed["image"] for failed in result["failed"]].count(f"dogs/{name}.jpg") == 1
    assert [skipped["path"] for skipped in result["skipped"]].count(f"dogs/{name}.heic") == 1


@names
def test_extract_takes_the_picture_under_its_name(said: Said, name: str) -> None:
    paths = [example.path for example in FeatureStore(said.store).examples]
    assert paths.count(f"cats/{name}.jpg") == 1
    assert "dogs/deep\x1b[7m\ner/1.jpg" in paths


@names
def test_predict_shows_predicted_and_bad_pictures_each_in_one_line(said: Said, name: str) -> None:
    shown = f"{make_printable(name)}.jpg"
    for text in (said.predict.out, said.predict_json.err):
        ((label, probability),) = find_cells(text, f"{said.folder}/cats/{shown}")
        assert (label, 0.5 <= float(probability) <= 1) == ("cats", True)
        assert find_cells(text, f"{said.folder}/dogs/{shown}") == [["an empty file"]]


@names
def test_predict_json_has_the_name_as_it_is(said: Said, name: str) -> None:
    result = said.predict_json.result
    assert said.predict_json.out.isascii()
    assert [failed["image"] for failed in result["failed"]].count(f"{said.folder}/dogs/{name}.jpg") == 1
    assert [skipped["image"] for skipped in result["skipped"]].count(f"{said.folder}/dogs/{name}.heic") == 1


def test_predict_takes_names_from_the_command_line_as_they_are_and_in_their_order(said: Said) -> None:
    images = [found["image"] for found in said.predict_json.result["predictions"]]
    assert images[:-1] == [f"{said.folder}/cats/{name}.jpg" for name in NAMES.values()]
    assert images[-1] == f"{said.folder}/dogs/deep\x1b[7m\ner/1.jpg"


def test_predict_of_a_name_that_is_not_there_shows_no_sequence(said: Said, tiny_model: Path) -> None:
    done = finish(start(PREDICT, "--model", tiny_model, said.folder / "\x1b[31mgone\nerror: x.jpg"))
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        f"error: {said.folder}/\\x1b[31mgone\\nerror: x.jpg: expected a picture or a folder, got nothing there."
        " Check the path.\n"
    )


def test_show_table_on_a_stream_without_such_letters_shows_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    Console().show_table("pictures", [(f"cats/{NAMES['other_letters']}.jpg", "seen")])
    assert "cats/" in written.getvalue().decode("ascii")
    assert "seen" in written.getvalue().decode("ascii")
