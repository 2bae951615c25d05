"""Labels in a store: their source, and the text of several labels of one picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from base.errors import FeatureStoreError
from base.urls import Location
from features.schema import encode_json

LABELS_KEY = "labels"
"""Key of the source of the labels in `meta`, and attribute in a packed store."""
LABEL_SEPARATOR = "|"
"""Separator of the labels of one picture in a store with several labels for each picture."""


@dataclass(frozen=True)
class LabelSource:
    """Source of the labels in a store: a table, or the names of the class folders."""

    table: str = ""
    """File name of the table; empty for class folders."""
    sha256: str = ""
    """Digest of the table."""
    path_column: str = ""
    label_columns: tuple[str, ...] = ()
    """Column of the labels, or a column of 0 and 1 for each class."""
    split_column: str = ""
    """Column of the splits; empty if they are those of the folders."""
    is_multi_label: bool = False
    """Whether a label is the text of any number of labels, joined by `LABEL_SEPARATOR`."""

    @classmethod
    def from_json(cls, text: str) -> LabelSource:
        """Decode the result of `encode`; raise ValueError, TypeError or KeyError for any other text."""
        if not text:
            return cls()
        values = json.loads(text)
        found = cls(**{**values, "label_columns": tuple(values["label_columns"])})
        texts = [found.table, found.sha256, found.path_column, *found.label_columns, found.split_column]
        if not all(type(text) is str for text in texts) or type(found.is_multi_label) is not bool:
            raise ValueError("the source of the labels has a wrong type")
        return found

    def encode(self) -> str:
        """Encode the fields as canonical JSON; empty for class folders."""
        return encode_json(asdict(self)) if self.table else ""

    def describe(self) -> str:
        """Return the table, its columns and its digest, as one line."""
        columns = self.label_columns if len(self.label_columns) == 1 else (f"{len(self.label_columns)} columns",)
        several = ", several labels for each picture" if self.is_multi_label else ""
        return f"{self.table}, {columns[0]} by {self.path_column}{several} (SHA-256 {self.sha256[:12]}…)"

    def list_labels(self, text: str) -> list[str]:
        """Return the labels of a picture, sorted, from its label in the catalog: one, unless `is_multi_label`."""
        return split_labels(text) if self.is_multi_label else [text]


def join_labels(labels: Iterable[str]) -> str:
    """Join the labels of a picture to the text in the catalog: sorted, separated by `LABEL_SEPARATOR`."""
    return LABEL_SEPARATOR.join(sorted(labels))


def split_labels(text: str) -> list[str]:
    """Return the labels of a picture from the result of `join_labels`."""
    return text.split(LABEL_SEPARATOR) if text else []


def require_single_labels(store: Location, source: LabelSource) -> None:
    """Raise FeatureStoreError for a store with several labels for each picture: their combinations are not classes."""
    if source.is_multi_label:
        advice = "Extract again with one label for each picture; the features are reused"
        got = f"any number of labels for each picture, from {source.table}"
        raise FeatureStoreError(store, "one label for each picture", got, advice)
