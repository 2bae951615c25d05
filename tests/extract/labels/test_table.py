"""Tables of labels as files: encodings, delimiters, quotes, Parquet, and files that are not tables."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from extract.labels.table import read_table
from tests.errors import raises

pytestmark = pytest.mark.unit

TEXT = "id,label\n1,café\n2,tea\n"
COLUMNS = [["1", "2"], ["café", "tea"]]


def write(folder: Path, data: str | bytes, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode(),
        TEXT.replace(",", " ").encode(),
        '"id" , label\n"1", café \n\n 2,"tea"\n'.replace(" ,", ",").replace(", ", ",").encode(),
        TEXT.encode() + b" , \n,\n",
    ],
)
def test_read_table_accepts_encodings_and_delimiters(tmp_path: Path, data: bytes) -> None:
    table = read_table(write(tmp_path, data))
    assert (table.names, table.columns) == (["id", "label"], COLUMNS)


def test_read_table_keeps_quoted_delimiters_quotes_and_line_breaks(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'id,label\n1,"a, ""b""\nc"\n2,d\n'))
    assert table.columns[1] == ['a, "b"\nc', "d"]


def test_read_table_with_values_of_a_list_finds_the_delimiter_of_the_columns(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "id,labels\n1,a;b\n2,a\n"))
    assert (table.names, table.columns) == (["id", "labels"], [["1", "2"], ["a;b", "a"]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0.0", "1.0", ""], ["0", "1", ""]),
        (["0", "1.0", "2"], ["0", "1", "2"]),
        (["0.0", "0.5", "1.0"], ["0.0", "0.5", "1.0"]),
        (["1.0", "v2.0", "3"], ["1.0", "v2.0", "3"]),
        (["01", "02", "03"], ["01", "02", "03"]),
    ],
)
def test_read_table_writes_whole_numbers_without_decimals(
    tmp_path: Path, values: list[str], expected: list[str]
) -> None:
    rows = "".join(f"{number},{value}\n" for number, value in enumerate(values))
    assert read_table(write(tmp_path, f"id,label\n{rows}")).columns[1] == expected


def test_read_table_joins_lists_of_texts(tmp_path: Path) -> None:
    rows = """id,tags,other\n1,"['a b', 'c']",['x']\n2,[],[1]\n3,"[""it's""]",['x']\n"""
    columns = read_table(write(tmp_path, rows)).columns
    assert columns[1:] == [["a b|c", "", "it's"], ["['x']", "[1]", "['x']"]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n \n",
        b";\n;\n",
        b"id\n1\n2\n",
        b"id,label\n1,a\n2,b,c\n",
        b'id,label\n1,"a\n2,b\n',
        b"id,label\n1,a\0\n",
        "id,label\n1,café\n".encode("latin-1"),
        TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_LE + b"x",
        b"PAR1 and no table",
        b"PK\x03\x04\x00\x00 a workbook",
    ],
)
def test_read_table_of_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, data)
    with raises(HeadstartError, where=path):
        read_table(path)


def test_read_table_with_rows_of_different_lengths_names_the_row(tmp_path: Path) -> None:
    with raises(HeadstartError) as caught:
        read_table(write(tmp_path, "id,label\n1,a\n2,b,c\n"))
    assert "row 3" in caught.value.got


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_read_table_of_a_path_without_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "labels.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with raises(UsageError, where=path):
        read_table(path)


def test_read_table_of_parquet_reads_numbers_lists_and_empty_cells(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "labels"
    columns = {
        "id": [1, 2, 3],
        "grade": [0.0, None, 2.0],
        "tags": [["a", "b"], [], None],
        "breed": pyarrow.array(["x", "y", None]).dictionary_encode(),
        "image": [{"bytes": b"1"}, None, None],
    }
    parquet.write_table(pyarrow.table(columns), path)
    table = read_table(path)
    assert table.names == ["id", "grade", "tags", "breed"]
    assert table.columns == [["1", "2", "3"], ["0", "", "2"], ["a|b", "", ""], ["x", "y", ""]]
    assert table.is_header_certain


def test_read_table_of_parquet_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base.errors.find_spec", lambda name: None)
    path = write(tmp_path, b"PAR1", "labels.parquet")
    with raises(UsageError, where=path) as caught:
        read_table(path)
    assert "headstart[parquet]" in caught.value.advice
