"""Every code block of every page is run, or checked by the rule for what cannot be run in a test."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartWarning
from tests.docs.blocks import PAGES, Block, find_blocks, list_lines, read_blocks
from tests.docs.shell import BEFORE, RULES, find_rule, run_line
from tests.docs.shown import CHECKS, IS_CAPTURE, check_capture
from tests.docs.workplace import copy_demo, enter, make_workplace
from tests.systems import needs_posix

# The pages show commands of make, and paths as on Linux.
pytestmark = [needs_posix, pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")]

BLOCKS = {page: blocks for page in PAGES if (blocks := read_blocks(page))}
LINES = {line for block in chain(*BLOCKS.values()) if block.language == "sh" for line in list_lines(block)}

NOTEBOOK = "docs/tutorial/first_model.md"
"""Page that tests/tutorial executes as a notebook."""
AFTER_DEMO = ("docs/how-to/export.md", "docs/how-to/predict.md")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the folder `page` beside it, in which a store, a run and a model were made."""
    folder = tmp_path_factory.mktemp("docs")
    make_workplace(folder / "page")
    return (folder / "page").rename(folder / "prepared")


@pytest.fixture
def workplace(prepared: Path) -> Iterator[Path]:
    """Folder in which a page runs. Its path is always the same, because a store records that of its pictures."""
    folder = shutil.copytree(prepared, prepared.with_name("page"))
    with enter(folder):
        yield folder
    shutil.rmtree(folder)


def run_blocks(blocks: list[Block]) -> None:
    """Run the blocks of a page in their order, and compare what they print with the captures after them."""
    names: dict[str, Any] = {}
    printed = io.StringIO()
    for block in blocks:
        if block.language == "sh":
            for line in list_lines(block):
                run_or_check(line, block, printed)
        elif block.language == "python":
            with redirect_stdout(printed), warnings.catch_warnings():
                # With few pictures, no head is better than a baseline.
                warnings.simplefilter("ignore", HeadstartWarning)
                exec(compile("\n" * block.line + block.text, block.page, "exec"), names)
        elif block.language == "text" and IS_CAPTURE.search(block.text):
            check_capture(block, printed.getvalue())
        # Directives are run when the site is built.
        elif not block.language.startswith("{"):
            key = (block.page, block.language)
            assert key in CHECKS, f"{block}: no check for a block in {block.language or 'no language'}"
            CHECKS[key](block)


def run_or_check(line: str, block: Block, printed: io.StringIO) -> None:
    """Run a line of shell, or check it by its rule if it cannot be run here."""
    if rule := find_rule(line):
        rule.check(line)
        return
    for result in chain.from_iterable(map(run_line, [*BEFORE.get(line, []), line])):
        assert result.status == 0, f"{block}: {line}\n{result.out}{result.err}"
        printed.write(result.out + result.err)


@pytest.mark.parametrize("page", [page for page in BLOCKS if page != NOTEBOOK])
def test_page_runs(page: str, workplace: Path) -> None:
    if page in AFTER_DEMO:
        copy_demo(workplace)
    run_blocks(BLOCKS[page])


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nheadstart features info work/store --jsno\n```",
        "```sh\npython -m features info work/store --jsno\n```",
        "```sh\nheadstart featrues info work/store\n```",
        "```sh\nmake info STROE=work/store\n```",
        "```sh\nmake inof STORE=work/store\n```",
        "```sh\nheadstart extract --images pictures --store store --distirbute ray\n```",
        "```sh\nheadstart extract --images pictures --store store --distribute ray --thread 2\n```",
        "```sh\npip install 'headstart[heif]'\n```",
        "```sh\nls work\n```",
        "```python\nimport headstart as hs\n\nhs.open_store('work/store', cuts='mixed7')\n```",
        "- a list\n\n  ```sh\n  headstart features info work/nothing\n  ```",
        "```text\n┌─┐\n│ accuracy of nothing │ 1 │\n```",
        "```\nmake info\n```",
        "```yaml\n- a: 1\n```",
    ],
)
@pytest.mark.usefixtures("workplace")
def test_page_with_a_mistake_fails(text: str) -> None:
    (block,) = find_blocks("page.md", text)
    with pytest.raises((AssertionError, TypeError)):
        run_blocks([block])


@pytest.mark.unit
def test_every_rule_and_step_is_needed_by_a_page() -> None:
    assert [rule.pattern for rule in RULES if all(find_rule(line) is not rule for line in LINES)] == []
    assert BEFORE.keys() - LINES == set()
    assert CHECKS.keys() - {(block.page, block.language) for block in chain(*BLOCKS.values())} == set()


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES)
def test_page_has_no_fence_that_is_no_block(page: str) -> None:
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    assert sum(line.strip().startswith("```") for line in text.splitlines()) == 2 * len(read_blocks(page))
