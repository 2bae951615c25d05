"""Summary of a table of labels: the columns that were found, and what does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from base.terminal import NUM_LISTED, Console, format_count, format_list
from features.labels import LabelSource


@dataclass(frozen=True)
class TableLabels:
    """Use of a table: columns, classes, and the rows and pictures that do not fit."""

    source: LabelSource
    separator: str
    """Separator of several labels in a cell; empty if there is none."""
    unused_columns: list[str]
    num_rows: int
    classes: list[str]
    missing: list[str]
    """Values of the path column without a picture."""
    repeated: list[str]
    """Paths of pictures in several rows with the same labels."""
    unlabeled: list[str]
    """Paths of pictures whose row has an empty label; left out."""
    unlisted: list[str]
    """Paths of pictures without a row; left out."""
    is_mixed: bool
    """Whether a folder has pictures with a row and others without. Test folders often have no rows at all."""

    def describe(self) -> str:
        """Return the columns that were found, and the number of rows and classes, as one line."""
        source, num_labels = self.source, len(self.source.label_columns)
        label = f"label {source.label_columns[0]}" if num_labels == 1 else f"{num_labels} columns of 0 and 1 as labels"
        parts = [
            f"path {source.path_column}",
            label + (f" (several, separated by {self.separator!r})" if self.separator else ""),
            f"split {source.split_column}" if source.split_column else "",
            f"not used: {format_list(self.unused_columns)}" if self.unused_columns else "",
        ]
        classes = format_count(len(self.classes), "class", "classes")
        several = ", several labels a picture" if source.is_multi_label else ""
        columns = "; ".join(filter(None, parts))
        return f"{source.table}: columns: {columns}; {format_count(self.num_rows, 'row')}, {classes}{several}"

    def log(self, console: Console) -> None:
        """Print the columns that were found, and warn of rows and pictures that do not fit."""
        console.info(self.describe())
        table, without_row = self.source.table, "left out, because no row has the path"
        for found, noun, why, log in (
            (self.missing, "row", "without a picture in the folder", console.warning),
            (self.unlabeled, "picture", "left out, because the label is empty", console.warning),
            (self.unlisted, "picture", without_row, console.warning if self.is_mixed else console.info),
            (self.repeated, "picture", "in several rows with the same label", console.info),
        ):
            if found:
                log(f"{table}: {format_count(len(found), noun)} {why}: {format_list(found)}")

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints under `labels`; lists are cut to the first five entries."""
        source = self.source
        lists = {name: getattr(self, name) for name in ("missing", "unlabeled", "unlisted", "repeated")}
        return {
            "table": source.table,
            "sha256": source.sha256,
            "path_column": source.path_column,
            "label_columns": list(source.label_columns),
            "split_column": source.split_column,
            "unused_columns": self.unused_columns,
            "separator": self.separator,
            "multi_label": source.is_multi_label,
            "rows": self.num_rows,
            "classes": len(self.classes),
            **{name: {"count": len(found), "first": found[:NUM_LISTED]} for name, found in lists.items()},
        }
