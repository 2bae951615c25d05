"""Merge parts into a store: shards are linked or copied, then one transaction adds them and their pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from base.errors import FeatureStoreError, StoreLockedError
from base.system import sync_folder
from base.terminal import BYTES, Console, format_list
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.catalog.database import convert_write_error
from features.catalog.tables import ImageRow
from features.contents import load_folder, pause_collector
from features.folder import check_store_folder
from features.maintenance.recover import list_shard_files
from features.merging.place import place_shard
from features.merging.plan import (
    check_agreement,
    check_complete,
    compose_meta,
    find_conflict,
    find_finished,
    is_outdated,
    update_row,
)
from features.merging.summary import StoreSummary, summarise_part, summarise_store
from features.parts import Parts, find_part
from features.quantized import ModelDamagedError, QuantizedModel, read_model
from features.shards.shard import SHARD_FOLDER, ShardHeader, ShardRef, parse_name
from features.store_writer import FeatureWriter


@dataclass(frozen=True)
class MergePlan:
    """Checked merge of parts into one store."""

    path: Path
    """Folder of the store."""
    parts: Sequence[StoreSummary]
    """Stores to merge, in the order of the numbers of their parts."""
    target: StoreSummary | None
    """The store before the merge; None if it has no pictures and no features."""
    finished: Parts | None
    """Parts that the store has complete after the merge; None if the stores are no parts."""
    is_done: bool
    """Whether the store has everything already."""
    model: QuantizedModel | None
    """Quantised backbone of int8 features."""


@dataclass(frozen=True)
class MergeResult:
    """Result of a merge, printed by `--json`."""

    store: Path
    missing: list[int]
    """Numbers of the parts that are missing or unfinished."""
    parts: int
    """Number of parts of the folder; 0 if the stores are no parts."""
    linked: int
    """Number of shards that were linked."""
    copied: int
    """Number of shards that were copied, because the store is on another file system."""
    pictures: int
    """Number of pictures that were added, changed or removed in the catalog."""


def plan_merge(paths: Sequence[Path], target: Path, console: Console, *, allow_incomplete: bool) -> MergePlan:
    """Read and check the parts and the store; write nothing.

    Args:
        paths: stores of the parts.
        target: folder of the store, which need not exist.
        console: prints a warning about different library versions.
        allow_incomplete: whether parts may be missing or unfinished.

    Raises:
        FeatureStoreError: the parts do not belong together, one is missing, unfinished or damaged, or the store has
            other features.
    """
    with pause_collector():
        parts = sorted(map(summarise_part, paths), key=lambda part: sorted(part.numbers))
        found = _read_target(target)
        check_agreement(parts, found)
        _check_overlaps(parts if parts[0].parts or found is None else [found, *parts])
        finished = find_finished(parts, found)
        is_merged = found is not None and _is_merged(parts, found)
    _warn_about_versions(parts, console)
    if (
        is_merged
        and found
        and found.parts is None
        and (finished is None or finished.list_missing() or is_outdated(parts, found))
    ):
        # The store has the whole folder, and with it every part. After all parts of another state of the folder, it
        # still has to record that state.
        return MergePlan(target, parts, found, None, True, None)
    if not allow_incomplete:
        check_complete(parts, finished)
    is_done = is_merged and found is not None and found.parts == finished
    return MergePlan(target, parts, found, finished, is_done, None if is_done else _read_backbone(parts))


def merge_parts(plan: MergePlan, console: Console) -> MergeResult:
    """Merge parts as planned. An interrupted merge is continued by the same call.

    Raises:
        StoreLockedError: another process is writing to the store, or a part has changed.
        ShardDamagedError: a shard of a part is damaged; nothing that was committed is lost.
        StoreWriteError: the store cannot be written.
    """
    missing, count = plan.finished.list_missing() if plan.finished else [], plan.parts[0].count
    if plan.is_done:
        return MergeResult(plan.path, missing, count, 0, 0, 0)
    stores = [plan.target, *plan.parts] if plan.target else plan.parts
    source = next((store for store in stores if store.shards), plan.parts[0])
    meta = compose_meta(plan.parts, plan.target, plan.finished)
    keep = plan.target is not None and is_outdated(plan.parts, plan.target)
    with FeatureWriter(plan.path, source.fingerprint, source.origin) as writer:
        for note in writer.notes:
            console.info(note)
        if plan.model:
            writer.write_quantized(plan.model)
        placed, num_linked = _place_shards(plan, writer, console)
        pictures, num_pictures = _Pictures(writer.catalog.read_images(), count), 0
        with writer.transaction():
            for shard, header in placed:
                writer.catalog.add_shard(shard, header.keys, header.statuses)
            # All parts have the same source of labels. It is compared before this transaction has changed `meta`.
            writer.update_images([], [], plan.target.labels if plan.target and keep else plan.parts[0].labels)
            for part in plan.parts:
                changed, removed = pictures.compare(_read_images(part), part, keep=keep)
                writer.update_images(changed, removed)
                num_pictures += len(changed) + len(removed)
            for key, value in meta.items():
                writer.write_meta(key, value)
    return MergeResult(plan.path, missing, count, num_linked, len(placed) - num_linked, num_pictures)


def _read_target(path: Path) -> StoreSummary | None:
    check_store_folder(path)
    if not (path / CATALOG_NAME).exists():
        return None
    found = summarise_store(path)
    return found if found.num_images or found.shards else None


def _check_overlaps(stores: Sequence[StoreSummary]) -> None:
    """Raise FeatureStoreError if two stores have a path with different content.

    Different parts have no path in common, so only stores of the same part are compared, and stores that are no parts.
    """
    for position, store in enumerate(stores):
        for other in stores[:position]:
            if store.parts and not store.numbers & other.numbers:
                continue
            rows = {row.path: row for row in _read_images(other)}
            if found := find_conflict(rows, _read_images(store)):
                mine, theirs = ((row.content_hash or b"").hex()[:12] for row in found)
                expected, got = f"{found[0].path} with SHA-256 {mine}…, as in {other.path}", f"SHA-256 {theirs}…"
                raise FeatureStoreError(store.path, expected, got, "Merge only one of the two stores")


def _is_merged(parts: Sequence[StoreSummary], target: StoreSummary) -> bool:
    """Return whether a store has the labels, the pictures and the features of the parts."""
    contents = load_folder(target.path)
    pictures, keep = _Pictures(contents.images, parts[0].count), is_outdated(parts, target)
    for part in parts:
        found = load_folder(part.path)
        if (part.labels != target.labels and not keep) or any(pictures.compare(found.images, part, keep=keep)):
            return False
        # One search for all pictures, because most features are view 0.
        hashes = [key.content_hash for key in found.locations if key.view == 0]
        if (contents.locations.find_first(hashes) < 0).any():
            return False
        if not all(key in contents.locations for key in found.locations if key.view):
            return False
    return True


class _Pictures:
    """Pictures of the store before the merge, by path and by part."""

    def __init__(self, images: Iterable[ImageRow], count: int) -> None:
        self._rows = {image.path: image for image in images}
        self._paths: dict[int, list[str]] = {}
        for path in self._rows if count else ():
            self._paths.setdefault(find_part(path, count), []).append(path)

    def compare(
        self, images: Sequence[ImageRow], part: StoreSummary, *, keep: bool
    ) -> tuple[list[ImageRow], list[str]]:
        """Compare the pictures with those of a part.

        Args:
            images: pictures of the part.
            part: the part.
            keep: whether the store decides which pictures it has, and their labels and splits.

        Returns:
            The pictures to add or replace, and the paths of those that the part no longer has.
        """
        pairs = [(self._rows.get(image.path), image) for image in images]
        if keep:
            pairs = [(old, image._replace(label=old.label, split=old.split)) for old, image in pairs if old]
        changed = [row for old, image in pairs if (row := update_row(old, image)) != old]
        paths = {image.path for image in images}
        before = chain.from_iterable(self._paths.get(number, ()) for number in part.numbers)
        if not part.parts:
            # Stores that are no parts can have a path in common, which must not be written twice.
            self._rows.update((row.path, row) for row in changed)
        return changed, [] if keep else [path for path in before if path not in paths]


def _read_images(part: StoreSummary) -> list[ImageRow]:
    with closing(Catalog(part.path / CATALOG_NAME, writable=False)) as catalog, catalog.snapshot():
        images, meta = catalog.read_images(), catalog.read_all_meta()
        if (len(images), meta) != (part.num_images, part.meta):
            got = "a catalog that has changed since"
            raise StoreLockedError(part.path, "a part that does not change during the merge", got, "Merge again")
    return images


def _read_backbone(parts: Sequence[StoreSummary]) -> QuantizedModel | None:
    """Read the quantised backbone from the first part that has it intact; None if the features are not int8."""
    stored = [part for part in parts if part.shards and part.fingerprint.calibration]
    for part in stored:
        try:
            return read_model(part.path, part.fingerprint.calibration)
        except ModelDamagedError as error:
            damage = error
    if stored:
        raise damage
    return None


def _place_shards(
    plan: MergePlan, writer: FeatureWriter, console: Console
) -> tuple[list[tuple[ShardRef, ShardHeader]], int]:
    """Place the shards that have new features in the folder of the store.

    Returns:
        Entry and content of each shard for the catalog, and the number of shards that were linked.
    """
    new = [(part, shard) for part in plan.parts for shard in _list_new_shards(part, writer)]
    numbers = [found[0] for path in list_shard_files(plan.path) if (found := parse_name(path.name))]
    free = max([*numbers, *(shard.number for shard in writer.catalog.read_shards())], default=0) + 1
    placed, num_linked = [], 0
    folder = plan.path / SHARD_FOLDER
    try:
        with console.progress("merge", sum(shard.num_bytes for _, shard in new), BYTES) as progress:
            for number, (part, shard) in enumerate(new, free):
                name = ShardRef(number, shard.sha256, 0, 0).name
                entry, header, is_linked = place_shard(
                    part.path / SHARD_FOLDER / shard.name, folder / name, part.fingerprint
                )
                placed.append((entry, header))
                num_linked += is_linked
                progress.advance(shard.num_bytes)
        sync_folder(folder)
    except OSError as error:
        raise convert_write_error(plan.path, error, writer.num_stored) from error
    return placed, num_linked


def _list_new_shards(part: StoreSummary, writer: FeatureWriter) -> list[ShardRef]:
    with closing(Catalog(part.path / CATALOG_NAME, writable=False)) as catalog, catalog.snapshot():
        locations = catalog.read_features()
    wanted = {place.shard for key, place in locations.items() if not writer.holds(key)}
    return [shard for shard in part.shards if shard.number in wanted]


def _warn_about_versions(parts: Iterable[StoreSummary], console: Console) -> None:
    found: dict[str, set[str]] = {}
    for part in parts:
        for name, version in part.origin.versions.items():
            found.setdefault(name, set()).add(version)
    differing = [f"{name} {' and '.join(sorted(versions))}" for name, versions in found.items() if len(versions) > 1]
    if differing:
        console.warning(f"the parts were extracted with different versions of libraries: {format_list(differing)}")
