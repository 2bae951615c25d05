"""The model card of an export: front matter, facts, and code that loads the model."""

from __future__ import annotations

import html
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import yaml
from markdown_it import MarkdownIt

from base.terminal import format_bytes, make_printable
from tests.pictures import draw_picture
from tests.train_head.export.cards import expect_output, format_odd_readme, list_blocks, parse_output
from tests.train_head.export.conftest import Exported
from tests.train_head.export.tiny import CONVERTED, ODD_CLASSES
from train_head.export.config import ExportConfig
from train_head.export.description import ModelDescription, find_versions, read_description
from train_head.export.readme.template import escape_markdown, format_code, format_table, quote_yaml
from train_head.export.readme.write import ReadmeSources, format_readme
from train_head.runs.read import Run

RUN_BLOCKS = """
import contextlib, io, json, os, sys
outputs = []
for folder, code in json.load(sys.stdin):
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, folder, "exec"), {"__name__": "__main__"})
    outputs.append(out.getvalue())
print(json.dumps(outputs))
"""


def test_python_code_in_a_card_prints_the_same_as_predict(
    odd: tuple[Path, ModelDescription], exported: Exported, early_run: Path, tmp_path: Path
) -> None:
    folder, description = odd
    blocks = list_blocks(format_odd_readme(odd, exported, early_run), "python")
    assert len(blocks) == 1 + len(CONVERTED)
    for path in (exported.model, exported.out / "model.json"):
        (tmp_path / path.name).symlink_to(path)
    draw_picture("dogs", 1).save(tmp_path / "picture.jpg")
    (keras_code,) = list_blocks((exported.out / "README.md").read_text(), "python").values()
    tasks = [*((str(folder), code) for code in blocks.values()), (str(tmp_path), keras_code)]
    done = subprocess.run(
        [sys.executable, "-c", RUN_BLOCKS],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    *outputs, binary = json.loads(done.stdout.splitlines()[-1])
    wanted = parse_output(expect_output(folder / "model.keras", description))
    assert wanted[0][1] == ODD_CLASSES[2]
    for output in outputs:
        found = parse_output(output)
        assert output.endswith("none of these\n")
        assert [label for _, label in found] == [label for _, label in wanted]
        assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-5)
    expected = expect_output(tmp_path / "model.keras", read_description(exported.out / "model.json"))
    assert parse_output(binary) == parse_output(expected)
    assert parse_output(binary)[0][1] == "dogs"


def test_card_has_front_matter_of_the_hub(exported: Exported, early_run: Path) -> None:
    _, front, body = (exported.out / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["license"] == "unknown"
    assert values["library_name"] == "keras"
    assert values["pipeline_tag"] == "image-classification"
    ((result,),) = (index["results"] for index in values["model-index"])
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "imagefolder", "name": "pictures", "split": "validation"}
    assert result["metrics"] == [{"type": "accuracy", "value": 1.0, "name": "Validation accuracy"}]
    assert "| cats | 12 | 6 | 1.0000 | 1.0000 |" in body
    assert Run(early_run).record.head in body


def test_card_has_the_size_of_the_files_of_each_format(
    odd: tuple[Path, ModelDescription], exported: Exported, early_run: Path
) -> None:
    text = format_odd_readme(odd, exported, early_run)
    sizes = {name: (odd[0] / name).stat().st_size for name in ("model.keras", "model.onnx", "model.xml", "model.bin")}
    sizes["model.xml"] += sizes.pop("model.bin")
    for name, size in sizes.items():
        assert f"| `{name}` | float32 | {format_bytes(size)} |" in text


def test_card_of_odd_names_has_valid_front_matter_and_tables(
    odd: tuple[Path, ModelDescription], exported: Exported, early_run: Path
) -> None:
    text = format_odd_readme(odd, exported, early_run)
    _, front, body = text.split("---\n", 2)
    (index,) = yaml.safe_load(front)["model-index"]
    assert "\N{CAT FACE}" in index["name"]
    assert "\\n" in index["name"]
    assert "<b>" not in body
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"\|(---\|)+", line):
            head, *rows = (lines[number - 1], *lines[number + 1 :])
            table = [head, *itertools.takewhile(lambda row: row.startswith("|"), rows)]
            assert {len(re.findall(r"(?<!\\)\|", row)) for row in table} == {line.count("|")}, table


def test_card_contains_no_path_of_this_machine(exported: Exported, early_run: Path) -> None:
    text = (exported.out / "README.md").read_text()
    for path in (exported.out, early_run, Path.home()):
        assert str(path) not in text
        assert str(path.parent) not in text.replace("https://", "") or path.parent == Path("/")


def test_card_of_many_classes_is_short(exported: Exported, early_run: Path, tmp_path: Path) -> None:
    run = Run(early_run)
    run.record = replace(run.record, classes=[*run.classes, *(f"class {number}" for number in range(1000))])
    card = replace(read_description(exported.out / "model.json").card, classes=run.classes)
    described = ModelDescription(card, formats={"keras": "float32"}, versions=find_versions())
    config = ExportConfig(early_run, tmp_path, factored=True)
    sources = ReadmeSources(run, run.open_store(), described, exported.result, exported.out, config)
    with mock.patch.object(run, "read_examples", return_value=Run(early_run).read_examples()):
        text = format_readme(sources).decode()
    assert len(text.splitlines()) < 200
    assert "class 999" not in text
    assert "headstart export --run run --out model --factored\n" in text


@pytest.mark.unit
@pytest.mark.parametrize(
    "text", ["a*b_c`d", "[x](y) <b>&amp;", "1. # $x$ ~~y~~ | z", "\\", "\N{CAT FACE} \u0642", "quotes \" and ' :smile:"]
)
def test_escape_markdown_shows_the_text_as_it_is(text: str) -> None:
    shown = MarkdownIt().enable(["table", "strikethrough"]).renderInline(escape_markdown(text))
    assert html.unescape(shown) == text
    assert "<" not in shown


@pytest.mark.unit
@pytest.mark.parametrize("text", ["plain", "a`b", "``", "`a", "a``b`", "<b>"])
def test_format_code_shows_the_text_as_it_is(text: str) -> None:
    shown = MarkdownIt().renderInline(format_code(text))
    assert shown == f"<code>{html.escape(text)}</code>"


@pytest.mark.unit
@pytest.mark.parametrize(
    "text", [*ODD_CLASSES, "", "yes", "1e3", "a: b # c", "\x85\u2028", "\x00\x7f", "'", "- a", "\ufeff"]
)
def test_quote_yaml_is_read_as_the_printable_text(text: str) -> None:
    assert yaml.safe_load(f"name: {quote_yaml(text)}") == {"name": make_printable(text)}


@pytest.mark.unit
def test_format_table_escapes_cells() -> None:
    table = format_table([("a", "b"), ("x|y", "new\nline")])
    assert table.splitlines() == ["| a | b |", "|---|---|", "| x\\|y | new\\\\nline |"]
