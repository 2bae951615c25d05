"""Decide whether parts can be merged into a store, and which parts it has then. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from base.errors import FeatureStoreError, FingerprintMismatchError
from base.invocation import format_command
from base.terminal import format_count, format_list
from features.catalog.tables import ImageRow
from features.folder import describe_differences
from features.labels import LABELS_KEY
from features.merging.summary import StoreSummary
from features.packed.view import VIEW_KEY
from features.parts import FOLDER_KEY, PART_KEY, Parts
from features.schema import ImageStatus

_OWN_KEYS = frozenset({"fingerprint", "origin", LABELS_KEY, PART_KEY, FOLDER_KEY, VIEW_KEY})
"""Keys of `meta` that the merge or the writer sets; other values are those of the store, or of the first part."""


def check_agreement(parts: Sequence[StoreSummary], target: StoreSummary | None) -> None:
    """Check that stores were extracted with the same options, and are parts of one folder if they are parts.

    Args:
        parts: the stores to merge.
        target: the store to extend; None if it has no features and no pictures.

    Raises:
        FingerprintMismatchError: features were computed with other settings; the error has both values of each field.
        FeatureStoreError: the number of parts, the folder, the labels or the number of views differ.
    """
    # An empty part has no features, and its fingerprint is replaced by that of the first ones.
    stores = [store for store in (target, *parts) if store and store.shards] or list(parts)
    for store in stores[1:]:
        if store.fingerprint != stores[0].fingerprint:
            expected, got = describe_differences(stores[0].fingerprint, store.fingerprint)
            advice = f"Extract it again with the options of {stores[0].path}, or merge it into another store"
            raise FingerprintMismatchError(store.path, expected, got, advice)
    first = parts[0]
    for part in parts[1:]:
        _require_equal(part, first, "{}", _describe_count(part), _describe_count(first))
        _require_equal(part, first, "labels from {}", _describe_labels(part), _describe_labels(first))
        if first.parts:
            _require_equal(part, first, "a part of {}", part.folder, first.folder)
    if target and (target.parts or not first.parts):
        _require_equal(first, target, "{}", _describe_count(first), _describe_count(target))
    if target and not first.parts:
        _require_equal(first, target, "labels from {}", _describe_labels(first), _describe_labels(target))
    viewed = [part for part in parts if part.num_views]
    for part in viewed[1:]:
        _require_equal(part, viewed[0], "training pictures with {:,} views", part.num_views, viewed[0].num_views)


def _require_equal(part: StoreSummary, other: StoreSummary, text: str, got: object, expected: object) -> None:
    if got != expected:
        advice = "Extract both parts again, with the same folder and options"
        raise FeatureStoreError(part.path, f"{text.format(expected)}, as in {other.path}", text.format(got), advice)


def find_finished(parts: Sequence[StoreSummary], target: StoreSummary | None) -> Parts | None:
    """Return the parts that the merged store has complete; None if the stores are no parts."""
    first, given = parts[0], frozenset[int]().union(*(part.numbers for part in parts))
    if first.parts is None:
        return None
    finished = frozenset[int]().union(*(part.numbers for part in parts if not part.num_pending))
    # An earlier merge counts only if the folder has not changed since.
    if target and (target.folder, target.labels) == (first.folder, first.labels):
        finished |= target.numbers - given
    return Parts(finished, first.count)


def is_outdated(parts: Sequence[StoreSummary], target: StoreSummary) -> bool:
    """Return whether a whole store has this state of the folder from an earlier merge: what it changed is newer."""
    return target.parts is None and parts[0].parts is not None and target.folder == parts[0].folder


def check_complete(parts: Sequence[StoreSummary], finished: Parts | None) -> None:
    """Raise FeatureStoreError if a store is unfinished, or if a part is missing."""
    for part in parts:
        if part.num_pending:
            got = f"{format_count(part.num_pending, 'picture')} with missing features"
            raise FeatureStoreError(part.path, "a finished store", got, _advise(part.parts))
    if finished and (missing := finished.list_missing()):
        names = format_list([f"{number}/{finished.count}" for number in missing])
        expected, got = f"all {finished.count:,} parts", f"{len(finished.numbers):,}, without {names}"
        raise FeatureStoreError("PART", expected, got, _advise(Parts(frozenset(missing[:1]), finished.count)))


def _advise(part: Parts | None) -> str:
    command = format_command("extract", *(["--part", part] if part else []))
    return f"Run `{command}` again with the same options and merge again, or give --incomplete"


def compose_meta(parts: Sequence[StoreSummary], target: StoreSummary | None, finished: Parts | None) -> dict[str, str]:
    """Return the values of `meta` to write: the record of the parts, and what the store does not have yet."""
    before = target.meta if target else {}
    meta = {key: value for part in reversed(parts) for key, value in part.meta.items()}
    meta = {key: value for key, value in meta.items() if key not in {*_OWN_KEYS, *before}}
    if finished:
        missing = {PART_KEY: str(finished)} if finished.list_missing() else {}
        meta |= {FOLDER_KEY: parts[0].folder, **missing}
    return meta | {key: "" for key in (PART_KEY, FOLDER_KEY) if before.get(key) and key not in meta}


def update_row(old: ImageRow | None, new: ImageRow) -> ImageRow:
    """Return the catalog's row of a picture after a merge.

    Args:
        old: row of the store, if it has one.
        new: row of a part. If its picture is pending, only its label and split are used.
    """
    if old is None:
        return new
    if new.status is ImageStatus.PENDING:
        return old._replace(label=new.label, split=new.split)
    return old if old == new._replace(modified_ns=old.modified_ns) else new


def find_conflict(rows: Mapping[str, ImageRow], others: Sequence[ImageRow]) -> tuple[ImageRow, ImageRow] | None:
    """Return the two rows of a path with different content in two stores; None if there is none."""
    for other in others:
        row = rows.get(other.path)
        if row and row.status is other.status is ImageStatus.DONE and row.content_hash != other.content_hash:
            return row, other
    return None


def _describe_count(store: StoreSummary) -> str:
    return f"a part of {store.count:,} parts" if store.parts else "a store that is no part"


def _describe_labels(store: StoreSummary) -> str:
    return store.labels.describe() if store.labels.table else "the names of class folders"
