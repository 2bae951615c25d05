"""Parser of a report: its data, headings, tables, pictures and addresses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "img", "br", "wbr"}


@dataclass
class Page(HTMLParser):
    """Contents of a page, in which every element must be closed in order."""

    text: str = ""
    tables: list[list[list[str]]] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    commands: str = ""
    json_text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self._is_json = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.addresses += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "img":
            self.images.append(values)
        elif tag == "script":
            self._is_json = values.get("type") == "application/json"
        elif tag == "iframe":
            self.frames.append(values["srcdoc"])
        elif tag == "figure":
            self.figures.append(values["aria-label"])
        elif tag == "table":
            self.tables.append([])
        elif tag == "h2":
            self.headings.append("")
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        if "script" in self._open:
            self.json_text += data if self._is_json else ""
            return
        if "pre" in self._open:
            self.commands += data
        if "h2" in self._open:
            self.headings[-1] += data
        self.text += data
        if self._open and self._open[-1] in ("td", "th", "small") and self.tables and self.tables[-1]:
            self.tables[-1][-1][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """Data of the report, from its JSON element."""
        data: dict[str, Any] = json.loads(self.json_text)
        return data

    def find_table(self, first: str) -> list[list[str]]:
        """Find the table whose first row has a cell with this text."""
        (found,) = [table for table in self.tables if table and first in table[0]]
        return found


def read_page(run: Path) -> Page:
    """Parse the report of a run."""
    page = Page()
    page.feed((run / "report.html").read_text(encoding="utf-8"))
    page.close()
    assert page._open == []
    return page
