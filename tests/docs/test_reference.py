"""Generated pages of the site: commands, make and the signatures of the API."""

from __future__ import annotations

import re
from unittest import mock

import pytest

import headstart
from base.commands import import_config, list_configs
from base.help import EXIT_STATUSES
from base.options import list_options
from docs.extensions import reference
from tests.docs.blocks import PAGES, read_blocks
from tests.docs.shell import MAKEFILE
from train_head.config import TrainConfig

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def commands() -> str:
    return reference.format_commands()


@pytest.mark.parametrize(("name", "place"), [*list_configs()])
def test_format_commands_has_every_option_of_a_command(name: str, place: str, commands: str) -> None:
    section = commands.partition(f"### headstart {name}\n")[2].partition("\n### ")[0]
    flags = set(re.findall(r"^:::\{option\} (--[\w-]+)", section, re.MULTILINE))
    assert flags == {option.flag for option in list_options(import_config(place)) if not option.is_argument}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dropout", ["From 0.0 to 0.99.", "Default: `0.2`."]),
        ("store", ["Required."]),
        ("overwrite", []),
        ("solver", ["Default: `auto`."]),
    ],
)
def test_describe_facts_of_an_option_has_range_and_default(name: str, expected: list[str]) -> None:
    (option,) = (option for option in list_options(TrainConfig) if option.name == name)
    assert reference.describe_facts(option, shown=True) == expected


def test_describe_facts_with_a_text_for_the_default_has_the_text() -> None:
    (option,) = (option for option in list_options(TrainConfig) if option.name == "rank")
    assert reference.describe_facts(option, "all")[-1] == "Default: all."


def test_format_exit_statuses_has_those_of_the_help() -> None:
    assert reference.format_exit_statuses().count("\n") == len(EXIT_STATUSES) + 1


def test_format_targets_and_variables_have_those_of_make_help() -> None:
    targets, variables = reference.format_targets(MAKEFILE), reference.format_variables(MAKEFILE)
    assert {"`make train`", "`make docs`"} <= set(re.findall(r"`make [a-z-]+`", targets))
    lines = variables.splitlines()
    assert lines[1].startswith("DATA=folder")
    assert lines[-2].startswith("PYTHON=python3")


def test_link_pages_replaces_the_path_of_a_page_by_a_link() -> None:
    assert reference.link_pages("see (docs/how-to/scale.md).") == "see ([](/how-to/scale.md))."


def test_add_types_returns_the_types_of_the_stub() -> None:
    found = reference.add_types(mock.Mock(), "function", "headstart.train", headstart.train, None, "", "Run")
    assert found is not None
    assert "dropout: float = 0.2" in found[0]


def test_generated_directives_are_used_by_the_pages() -> None:
    used = {block.language for page in PAGES for block in read_blocks(page)}
    assert {f"{{{name}}}" for name in reference.GENERATED} <= used
