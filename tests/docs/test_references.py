"""References of the pages: files, code, commands, options and variables in the text, and addresses."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from base.commands import COMMANDS, import_config, list_configs
from base.options import list_options
from base.terminal import ConsoleOptions
from tests.docs.blocks import PAGES, ROOT, find_spans, read_blocks
from tests.docs.shell import EXTRAS, MAKEFILE
from train_head.config import HeadConfig
from train_head.report.data import DATA_ID

pytestmark = pytest.mark.unit

FOLDERS = ("base", "benchmarks", "docs", "extract", "features", "headstart", "tests", "train_head")
# The changelog and the decisions have names of earlier versions.
CURRENT = [page for page in PAGES if page != "CHANGELOG.md" and "decisions/" not in page]
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"\b([A-Z][A-Z0-9_]*)=", MAKEFILE.partition("\n\nempty")[0]))
ENVIRONMENT = {
    *(
        "CUDA_VISIBLE_DEVICES",
        "FSSPEC_S3_ANON",
        "HDF5_USE_FILE_LOCKING",
        "KERAS_BACKEND",
        "RAY_AUTH_MODE",
        "TF_ENABLE_ONEDNN_OPTS",
    ),
    *("FORCE_COLOR", "NO_COLOR", "TERM"),
}
"""Variables of the environment."""
FOREIGN = {"--array", "--help", "--version", "--install-completion", "--show-completion"}
"""Options of other programs, and of every program."""
PLACEHOLDERS = {"NAME", "VALUE"}
VALUES = {"headstart packed store"}
"""Code spans that are values, and no commands."""


@cache
def list_option_names(config: type) -> frozenset[str]:
    """Return the options of a command, and the negative forms of its switches."""
    options = [option for option in list_options(config) if not option.is_argument]
    names = {option.flag.removeprefix("--") for option in options}
    negative = {option.flag.removeprefix("--") for option in options if option.kind is bool}
    negative = {name.removeprefix("no-") if name.startswith("no-") else f"no-{name}" for name in negative}
    return frozenset(f"--{name}" for name in names | negative)


@cache
def list_command_options() -> dict[str, frozenset[str]]:
    """Return the options of each command and subcommand, without those of every command."""
    return {name: list_option_names(import_config(place)) for name, place in list_configs()}


@cache
def list_benchmark_options() -> frozenset[str]:
    """Return the names of all options of the benchmarks, as their sources declare them."""
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/*.py"))
    names = re.findall(r"^    (\w+): ", sources, re.MULTILINE) + re.findall(r'"--([\w-]+)"', sources)
    return frozenset(f"--{name.replace('_', '-')}" for name in names)


def find_wrong_words(span: str) -> list[str]:
    """Find the words of a code span that name no command, target, option or variable."""
    words = re.sub(r'"[^"]*"|-C \S+', "", span).split() or [""]
    options = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    variables = {found[1] for word in words if (found := re.match(r"([A-Z][A-Z0-9_]+)=", word))}
    variables -= PLACEHOLDERS
    common = list_option_names(ConsoleOptions) | FOREIGN
    known = common.union(list_benchmark_options(), *list_command_options().values())
    wrong = variables - VARIABLES - ENVIRONMENT if words[0] != "export" else set()
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        return sorted({*targets} - TARGETS | wrong)
    name = find_name(words)
    if name is None or span in VALUES:
        return sorted(wrong | (options - known if span.startswith("--") else set()))
    if not any(each == name or each.startswith(f"{name} ") for each in list_command_options()):
        return [name]
    allowed = common.union(*(names for each, names in list_command_options().items() if f"{each} ".startswith(name)))
    return sorted(wrong | options - allowed)


def find_name(words: list[str]) -> str | None:
    """Return the name of the command that a span starts with, such as `features info`; None for other spans."""
    if words[0] == "headstart" and len(words) > 1 and re.fullmatch("[a-z]+", words[1]):
        first, rest = words[1], words[2:]
    elif words[:2] == ["python", "-m"] and len(words) > 2:
        runnable = {command.runnable: name for name, command in COMMANDS.items()}
        if words[2] not in runnable:
            return None if find_spec(words[2]) else words[2]
        first, rest = runnable[words[2]], words[3:]
    else:
        return None
    subcommands = COMMANDS[first].subcommands if first in COMMANDS else {}
    return f"{first} {rest[0]}" if rest and rest[0] in subcommands else first


@pytest.mark.parametrize("page", CURRENT)
def test_page_names_existing_commands_options_and_variables(page: str) -> None:
    spans = find_spans((ROOT / page).read_text(encoding="utf-8"))
    assert {span: wrong for span in spans if (wrong := find_wrong_words(span))} == {}


@pytest.mark.parametrize(
    ("span", "wrong"),
    [
        ("make trian DATA=pictures", ["trian"]),
        ("make train DROPUOT=0.5", ["DROPUOT"]),
        ("DROPUOT=0.5", ["DROPUOT"]),
        ("headstart trian", ["trian"]),
        ("headstart train --dropuot 0.5", ["--dropuot"]),
        ("headstart features check --dropout 0.5", ["--dropout"]),
        ("python -m train_head.sweeps", ["train_head.sweeps"]),
        ("--dropuot", ["--dropuot"]),
        ("headstart features check STORE --read-data --json", []),
        ("make train DROPOUT=0.5", []),
        ("LearningRate=1", []),
    ],
)
def test_find_wrong_words_finds_misspelt_names(span: str, wrong: list[str]) -> None:
    assert find_wrong_words(span) == wrong


@pytest.mark.parametrize("page", CURRENT)
def test_page_names_existing_extras(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = set(re.findall(r"(?:headstart|\.)\[(\w+)\]['\"`]", text))
    assert found - EXTRAS.keys() == set()


@pytest.mark.parametrize("page", PAGES)
def test_page_refers_to_existing_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", text)
    # The site resolves a path from the root of docs/.
    found = [(ROOT / page).parent / link for link in links] + [ROOT / path for path in paths]
    assert [path for path in found if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_page_has_well_formed_addresses(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    addresses = map(urlsplit, re.findall(r"\]\((https?:[^)\s]+)\)", text))
    assert [found.geturl() for found in addresses if found.scheme != "https" or "." not in found.netloc] == []


def list_anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_page_refers_to_existing_headings(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", path.read_text(encoding="utf-8"))
    found = [
        (link, anchor) for link, anchor in links if anchor not in list_anchors(path.parent / link if link else path)
    ]
    assert found == []


def test_every_page_is_in_the_contents_of_the_site() -> None:
    contents = (block for page in PAGES for block in read_blocks(page) if block.language == "{toctree}")
    listed = {
        path.relative_to(ROOT).as_posix()
        for block in contents
        for entry in block.text.splitlines()
        if entry and not entry.startswith(":")
        for path in (ROOT / block.page).parent.glob(f"{entry}.md")
    }
    assert {page for page in PAGES if page.startswith("docs/")} - listed == {"docs/index.md"}


def test_readme_commands_are_run_by_ci() -> None:
    lines = chain.from_iterable(block.text.splitlines() for block in read_blocks("README.md"))
    assert "make test" in lines
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_page_of_runs_describes_every_section_of_the_report_and_its_data() -> None:
    page = (ROOT / "docs" / "reference" / "runs.md").read_text()
    template = (ROOT / "train_head" / "report" / "page.html.jinja").read_text()
    sections = re.findall(r"<h2[^>]*>(.+?)</h2>", template)
    assert sections
    assert [section for section in sections if f"| {section} |" not in page] == []
    assert f'<script type="application/json" id="{DATA_ID}">' in page


def test_page_of_training_lists_every_option_of_the_head() -> None:
    page = (ROOT / "docs" / "how-to" / "training.md").read_text()
    assert [option.flag for option in list_options(HeadConfig) if f"`{option.flag}`" not in page] == []


def test_code_refers_to_existing_pages() -> None:
    """Help, messages and comments name pages by their path."""
    sources = [*chain.from_iterable(ROOT.glob(f"{folder}/**/*.py") for folder in FOLDERS), ROOT / "Makefile"]
    found = {
        (source.name, path)
        for source in sources
        for path in re.findall(r"\bdocs/[\w/-]+\.\w+\b", source.read_text(encoding="utf-8"))
        if "tests/" not in source.as_posix()
    }
    assert [path for path in found if not (ROOT / path[1]).exists()] == []
