"""The README's commands on a small folder of pictures, and the references of all pages to files and code."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from base.options import list_options
from tests.backbones import build_small_backbone
from tests.commands import CommandResult, run_command
from tests.pictures import fill_folder
from train_head.config import HeadConfig
from train_head.report.data import DATA_ID
from train_head.report.figures import encode_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
FOLDERS = ("base", "benchmarks", "docs", "extract", "features", "headstart", "tests", "train_head")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("make ")
]
TESTED = [command for command in COMMANDS if command != "make test"]
# The default pictures and weights need a network and minutes, so the targets run with these values.
SMALL = {"DATA": "pictures", "WEIGHTS": "random", "IMAGE_SIZE": "75", "EPOCHS": "2", "UNITS": "16"}
RECORD_ARGUMENTS = f"""#!{sys.executable}
import json, sys
print("call:", json.dumps(sys.argv[1:]))
"""


def list_calls(command: str, checkout: Path) -> list[list[str]]:
    """List the Python commands that a make command runs."""
    given = {word.split("=")[0] for word in command.split() if "=" in word}
    overrides = [f"{name}={value}" for name, value in SMALL.items() if name not in given]
    done = subprocess.run(
        [*command.split(), *overrides, f"BIN={checkout}", "RUNTIME=", "DEV="],
        cwd=checkout,
        # `make test` exports its own variables to the tests. They must not change the inner make.
        env={name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("call: ")]


def run_call(call: list[str]) -> CommandResult:
    """Run a `python -m ...` command in this process."""
    _, module, *arguments = call
    spec = find_spec(module)
    assert spec, call
    return run_command(f"{module}.__main__" if spec.submodule_search_locations else module, *arguments)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[CommandResult]]:
    """Run all commands in the README's order, because later ones may read the files of earlier ones.

    They use a small backbone; `tests/headstart/test_wheel.py` runs the README's script with InceptionV3. Each figure of
    a report is drawn in the first report that has it.
    """
    drawn: dict[str, str] = {}

    def encode_once(figure: Figure, name: str) -> str:
        if name not in drawn:
            drawn[name] = encode_svg(figure, name)
        return drawn[name]

    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "python").write_text(RECORD_ARGUMENTS)
    (folder / "python").chmod(0o755)
    fill_folder(folder / "pictures", {"cats": 9, "dogs": 9})
    shutil.copy(folder / "pictures/cats/000.jpg", folder / "a.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("train_head.finetuning.backbone.build_backbone", build_small_backbone)
        for module in ("extract.cut_backbone", "train_head.export.load"):
            patch.setattr(f"{module}.build_backbone", functools.cache(build_small_backbone))
        patch.setattr("train_head.report.page.encode_svg", encode_once)
        return {command: [run_call(call) for call in list_calls(command, folder)] for command in TESTED}


@pytest.mark.parametrize("command", TESTED)
def test_readme_command_succeeds(command: str, results: dict[str, list[CommandResult]]) -> None:
    assert results[command]
    for result in results[command]:
        assert result.status == 0, result.out + result.err


def test_readme_tables_have_the_rows_that_make_demo_prints(results: dict[str, list[CommandResult]]) -> None:
    printed = "".join(result.out + result.err for result in results["make demo"])
    rows = [re.findall("^│ (.*?) *│", text, re.MULTILINE) for text in ((ROOT / "README.md").read_text(), printed)]
    assert rows[0] == rows[1][-len(rows[0]) :]


@pytest.mark.unit
def test_readme_test_command_is_run_by_ci() -> None:
    assert "make test" in COMMANDS
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.unit
def test_readme_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {command.split()[1] for command in COMMANDS} <= set(targets)


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_refers_to_existing_files(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", text)
    found = [page.parent / link for link in links] + [ROOT / path for path in paths]
    assert [path for path in found if not path.exists()] == []


@pytest.mark.unit
def test_page_of_runs_describes_every_section_of_the_report_and_its_data() -> None:
    page = (ROOT / "docs" / "reference" / "runs.md").read_text()
    template = (ROOT / "train_head" / "report" / "page.html.jinja").read_text()
    sections = re.findall(r"<h2[^>]*>(.+?)</h2>", template)
    assert sections
    assert [section for section in sections if f"| {section} |" not in page] == []
    assert f'<script type="application/json" id="{DATA_ID}">' in page


@pytest.mark.unit
def test_page_of_training_lists_every_option_of_the_head() -> None:
    page = (ROOT / "docs" / "how-to" / "training.md").read_text()
    names = [f"`--{option.name.replace('_', '-')}`" for option in list_options(HeadConfig)]
    assert [name for name in names if name not in page] == []
