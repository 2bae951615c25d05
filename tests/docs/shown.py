"""Blocks of the pages that are no commands: captures of what commands print, lists of files, and code for browsers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from base.commands import COMMANDS
from extract.config import ExtractConfig
from tests.commands import run_command
from tests.docs.blocks import ROOT, Block
from train_head.config import HeadConfig

IS_CAPTURE = re.compile(r"^┌", re.MULTILINE)
_ROW = re.compile(r"^│ (.*?) *│", re.MULTILINE)


def check_capture(block: Block, printed: str) -> None:
    """Check that each row of a captured table is in what the page's commands printed, by its first cell."""
    missing = set(_ROW.findall(block.text)) - set(_ROW.findall(printed))
    assert not missing, f"{block}: {missing} not printed by the commands above"


def check_store(block: Block) -> None:
    """Check that the list of a store's files has each file of a real store."""
    listed = {line.split()[0].partition("/")[0] for line in block.text.splitlines()[1:]}
    assert {path.name for path in Path("work/store").iterdir()} <= listed, str(block)


def check_layout(block: Block) -> None:
    """Check that the list of the code's folders has only folders that exist, and all packages."""
    names = set(re.findall(r"(?:^| )([a-z_]+)/", block.text, re.MULTILINE))
    assert [name for name in names if not [*ROOT.glob(name), *ROOT.glob(f"*/{name}")]] == [], str(block)
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= names, str(block)


def check_script(block: Block) -> None:
    """Check that the names that a script imports from the exported page are exported there."""
    imported = re.findall(r'import \{ (\w+) \} from "\./web/([\w.]+)"', block.text)
    assert imported, str(block)
    for name, file in imported:
        source = (ROOT / "train_head/export/page" / file).read_text(encoding="utf-8")
        assert re.search(rf"export [\w ]*\b{name}\b", source), f"{block}: {name}"


def check_configuration(block: Block) -> None:
    """Run the commands that need no options with the configuration file."""
    Path("headstart.toml").write_text(block.text, encoding="utf-8")
    shutil.rmtree("work/store")
    for command in ("extract", "train", "export"):
        result = run_command(COMMANDS[command].module)
        assert result.status == 0, f"{block}: {command}\n{result.err}"


def check_diagram(block: Block) -> None:
    """Check that the diagram of the stages has the default cut layer and head."""
    assert f"up to {ExtractConfig.cut}" in block.text
    assert f"Dense {HeadConfig.units}" in block.text


CHECKS = {
    ("README.md", "text"): check_diagram,
    ("docs/reference/format.md", "text"): check_store,
    ("CONTRIBUTING.md", "text"): check_layout,
    ("docs/reference/commands.md", "toml"): check_configuration,
    ("docs/how-to/web.md", "html"): check_script,
}
"""Checks of the blocks of a page and language, other than captures."""
