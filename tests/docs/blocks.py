"""Code blocks and code spans of the pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The changelog and the decisions describe earlier versions too, so only their blocks are collected.
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_FENCE = re.compile(r"^( *)(`{3,})([^`\n]*)\n(.*?)^ *\2 *$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """Fenced block of a page."""

    page: str
    line: int
    language: str
    """Word after the fence, such as `sh`; `{name}` for a directive of the site."""
    text: str

    def __str__(self) -> str:
        """Return the place of the block."""
        return f"{self.page}:{self.line}"


def find_blocks(page: str, text: str) -> list[Block]:
    """Find the fenced blocks of a page in its Markdown."""
    return [
        Block(page, text[: found.start()].count("\n") + 1, found[3].strip(), _remove_indent(found[4], found[1]))
        for found in _FENCE.finditer(text)
    ]


def _remove_indent(text: str, indent: str) -> str:
    return "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))


def read_blocks(page: str) -> list[Block]:
    return find_blocks(page, (ROOT / page).read_text(encoding="utf-8"))


def find_spans(text: str) -> list[str]:
    """Find the code spans of a page, with line breaks as spaces."""
    return [" ".join(found[1].split()) for found in _SPAN.finditer(_FENCE.sub("", text))]


def list_lines(block: Block) -> list[str]:
    """List the commands of a block of shell, without comments and empty lines, with continued lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    found = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    return [line for line in found if line]
