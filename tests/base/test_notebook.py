"""Output in a notebook: tables and progress as HTML. `tests/tutorial` runs a real kernel."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from base.notebook import render_progress, render_table
from base.terminal import is_notebook

pytestmark = pytest.mark.unit
HOSTILE = '<script>alert("1")</script>\udcff'


class Page(HTMLParser):
    """Tags with their attributes, and the texts between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return [name for name, _ in self.tags].count(tag)


def test_is_notebook_outside_a_kernel_is_false() -> None:
    assert not is_notebook()


def test_render_table_has_a_row_name_and_cells_for_each_row() -> None:
    page = Page(render_table("a run", [("accuracy", 0.5), ("pictures", "12")]))
    assert page.texts == ["a run", "accuracy", "0.5", "pictures", "12"]
    assert [page.count(tag) for tag in ("caption", "tr", "th", "td")] == [1, 2, 2, 2]


def test_render_table_with_a_header_counts_the_rows_left_out() -> None:
    page = Page(render_table("", [("a.jpg", "cats")], ("picture", "label"), more=1200))
    assert page.texts[:2] == ["picture", "label"]
    assert "1,200" in page.texts[-1]
    assert page.tags[-1][1]["colspan"] == "2"
    assert page.count("caption") == 0


@pytest.mark.parametrize(
    "html",
    [
        render_table(HOSTILE, [(HOSTILE, HOSTILE)], (HOSTILE, HOSTILE)),
        render_progress(HOSTILE, 1, 2, HOSTILE),
    ],
)
def test_rendered_html_contains_no_tag_of_a_name(html: str) -> None:
    page = Page(html)
    assert page.count("script") == 0
    html.encode()


def test_render_progress_has_the_amounts_and_the_text() -> None:
    page = Page(render_progress("extract", 3, 12, "3/12 pictures"))
    (attributes,) = [attributes for tag, attributes in page.tags if tag == "progress"]
    assert (attributes["value"], attributes["max"], attributes["aria-label"]) == ("3", "12", "extract")
    assert page.texts == ["extract", "3/12 pictures"]
