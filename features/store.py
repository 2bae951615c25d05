"""Read a feature store: the examples from its catalog, the features from its shards."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import ShardDamagedError, UsageError
from base.notebook import render_table
from features.arrays import read_array, stream_dataset
from features.catalog.tables import ImageRow
from features.contents import Example as Example
from features.contents import StoreContents, UnusableImage, load_folder
from features.packed.read import load_pack
from features.schema import DERIVED_FOLDER, FEATURE_DTYPE, TRAIN, VALIDATION, FeatureKey, Features, Fingerprint, Origin
from features.shards.shard import ShardRef
from features.validation_split import encode_label_sets, encode_labels, select_examples


class FeatureStore:
    """Feature store, open for reading.

    The catalog is read once, when the store is opened; shards are read on demand. Reading takes no lock and never waits
    for a writer. `len(store)` is the number of pictures with features.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the catalog of a store.

        Args:
            path: folder of the store, or a file that `python -m features pack` wrote.

        Raises:
            StoreMissingError: the path has no store.
            CatalogDamagedError: the catalog is damaged.
        """
        self.path = Path(path)
        self.contents = load_pack(self.path) if self.path.is_file() else load_folder(self.path)
        self.parts: tuple[FeatureStore, ...] = ()
        """Stores of the cut layers of a joined store; empty for the store of one cut layer."""
        self.scales: tuple[float, ...] = ()
        """Factor of the features of each part."""
        self._made_by: tuple[Callable[..., FeatureStore], tuple[Any, ...]] = FeatureStore, (self.path,)

    @classmethod
    def derive(
        cls, path: Path, contents: StoreContents, function: Callable[..., FeatureStore], arguments: tuple[Any, ...]
    ) -> FeatureStore:
        """Create a store whose features are computed from those of other stores.

        Args:
            path: folder or file of the other stores.
            contents: pictures of the store, and functions that read and compute its features.
            function: function that creates the store; it is pickled instead of the store.
            arguments: arguments of the function.
        """
        made = cls.__new__(cls)
        made.path, made.contents = path, contents
        made.parts, made.scales, made._made_by = (), (), (function, arguments)
        return made

    @cached_property
    def examples(self) -> list[Example]:
        """View 0 of each image with a usable feature, sorted by the bytes of the paths."""
        return self.contents.list_examples()

    @property
    def fingerprint(self) -> Fingerprint:
        """All settings that determine the values of the features."""
        return self.contents.fingerprint

    @property
    def origin(self) -> Origin:
        """Shape and source of the features."""
        return self.contents.origin

    @property
    def images_folder(self) -> str:
        """Absolute path of the folder that was scanned last; empty for a packed store."""
        return self.contents.images_folder

    def reopen(self) -> FeatureStore:
        """Open the store again, with the pictures and features that are now on disk."""
        # A copy is made as in `pickle`, which opens the store and those that it is derived from.
        return copy.deepcopy(self)

    @property
    def is_multi_label(self) -> bool:
        """Whether a picture may have several labels, or none; `list_labels` returns them."""
        return self.contents.labels.is_multi_label

    def list_labels(self, example: Example) -> list[str]:
        """Return the labels of an example, sorted: exactly one, unless the store is a multi-label store."""
        return self.contents.labels.list_labels(example.label)

    @property
    def images(self) -> list[ImageRow]:
        """All images found by the last scan of the folder."""
        return self.contents.images

    @property
    def shards(self) -> list[ShardRef]:
        """All committed shards, sorted by number."""
        return self.contents.shards

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one feature, such as (7, 7, 768) for mixed7 at 150 px."""
        return self.origin.feature_shape

    @property
    def derived_folder(self) -> Path:
        """Folder for data that can be computed again, in the store or beside a packed store; it need not exist."""
        if self.parts:
            return self.parts[0].derived_folder
        if self.path.is_file():
            return self.path.with_name(f"{self.path.name}.{DERIVED_FOLDER}")
        return self.path / DERIVED_FOLDER

    @property
    def num_features(self) -> int:
        """Number of stored features, including those of images that are no longer in the folder."""
        return len(self.contents.locations)

    @cached_property
    def num_views(self) -> int:
        """Largest number of views stored for an image."""
        return int(self.contents.locations.views.max(initial=0)) + 1

    @property
    def num_pending(self) -> int:
        """Number of images whose features the next extraction will compute."""
        return self.contents.num_pending

    def list_unusable(self) -> list[UnusableImage]:
        """Return every image without a usable feature, with the reason."""
        return self.contents.list_unusable()

    def list_views(self, example: Example, num_views: int) -> list[Example]:
        """Return the example (view 0), and the views 1 to `num_views` - 1 of its image that have usable features."""
        keys = (FeatureKey(example.content_hash, view) for view in range(1, num_views))
        found = ((key.view, location) for key in keys if (location := self.contents.find_usable(key)))
        return [example, *(example._replace(shard=at.shard, row=at.row, view=view) for view, at in found)]

    def find_examples(self, keys: Iterable[FeatureKey]) -> list[Example | None]:
        """Find stored features by content hash and view.

        Returns:
            An example for each key, or None if no usable feature is stored. Path, label and split are empty, as the
            image may no longer be in the folder.
        """
        found = ((key, self.contents.find_usable(key)) for key in keys)
        return [Example("", "", "", key.content_hash, at.shard, at.row, key.view) if at else None for key, at in found]

    def find_stored(self, keys: Iterable[FeatureKey]) -> list[Example]:
        """Find stored features as `find_examples` does, without the missing ones."""
        return [example for example in self.find_examples(keys) if example is not None]

    def hash_sources(self, examples: Iterable[Example]) -> str:
        """Return a digest of the files that contain the features of examples; equal digests mean equal features."""
        return self.contents.hash_shards({example.shard for example in examples})

    def describe_source(self, example: Example) -> str:
        """Return the path of the file that contains the feature of an example, for messages."""
        return str(self.contents.locate_shard(example.shard))

    def read(self, examples: Sequence[Example]) -> Features:
        """Read the features of examples of this store; each shard is opened once.

        Args:
            examples: elements of `examples` or results of other methods of this store, in any order; duplicates are
                allowed.

        Returns:
            Features, (len(examples), *feature_shape) float16, in the order of the examples.

        Raises:
            ShardDamagedError: a shard is missing or damaged.
        """
        features = np.empty((len(examples), *self.feature_shape), FEATURE_DTYPE)
        by_shard: dict[int, dict[int, list[int]]] = {}
        for position, example in enumerate(examples):
            by_shard.setdefault(example.shard, {}).setdefault(example.row, []).append(position)
        for number, positions_of_row in by_shard.items():
            rows = sorted(positions_of_row)
            first = positions_of_row[rows[0]][0]
            if all(positions_of_row[row] == [first + offset] for offset, row in enumerate(rows)):
                self._read_rows(number, rows, features[first : first + len(rows)])
            else:
                block = np.empty((len(rows), *self.feature_shape), FEATURE_DTYPE)
                self._read_rows(number, rows, block)
                for row, feature in zip(rows, block, strict=True):
                    features[positions_of_row[row]] = feature
        return features

    def _read_rows(self, number: int, rows: Sequence[int], out: Features) -> None:
        self.contents.read_rows(number, rows, out)
        if not np.isfinite(out).all():
            got = "NaN or infinity in rows with the status ok"
            raise ShardDamagedError(self.path, "finite features", got, "Extract again into a new --store")

    @property
    def classes(self) -> list[str]:
        """Sorted labels of the pictures with features; a class number is a position in this list."""
        return sorted({label for example in self.examples for label in self.list_labels(example)})

    def paths(self, split: str | None = None) -> list[str]:
        """List the paths of the pictures, relative to the images folder, in the order of `to_numpy`.

        Args:
            split: `train`, `validation` or `test`, as in `to_numpy`; None for all pictures.

        Raises:
            UsageError: unknown split, or a split without pictures.
        """
        return [example.path for example in self._select(split)]

    def to_numpy(self, split: str | None = None, dtype: str = "float32") -> tuple[NDArray[Any], NDArray[Any]]:
        """Read features and class numbers into memory, sorted by the content hashes of the pictures.

        The class numbers of a multi-label store are 0 or 1 for each label, as scikit-learn expects them.

        Args:
            split: `train`, `validation` or `test`; None for all pictures. If the images folder has no validation/, a
                fifth of the training pictures is the validation split, as in training by default.
            dtype: `float16` (the stored dtype), `float32` or `float64`.

        Returns:
            Features, (n, *feature_shape) of the given dtype, and class numbers, (n,) int64. For a multi-label store,
            (n, classes) uint8: 1 where a picture has the label.

        Raises:
            UsageError: unknown dtype or split, or a split without pictures.
            HeadstartError: the features need more than the free memory; nothing is allocated.
            ShardDamagedError: a shard is missing or damaged.
        """
        examples = self._select(split)
        return read_array(self.read, examples, self.feature_shape, dtype), self._encode(examples)

    def to_tf_dataset(self, split: str | None = None, batch_size: int = 32) -> Any:
        """Stream features and class numbers as a `tf.data.Dataset`, one shard in memory at a time.

        Args:
            split: `train`, `validation` or `test`, as in `to_numpy`; None for all pictures.
            batch_size: number of rows in a batch; the last batch may have fewer.

        Returns:
            A dataset of batches: features, (b, *feature_shape) float32, and class numbers, (b,) int64; for a
            multi-label store, (b, classes) uint8. The rows are in the order of the shards.

        Raises:
            UsageError: batch size below 1, unknown split, or a split without pictures.
            ShardDamagedError: a shard is missing or damaged; raised while the dataset is read.
        """
        examples = sorted(self._select(split), key=lambda example: (example.shard, example.row))
        return stream_dataset(self.read, examples, self._encode(examples), self.feature_shape, batch_size)

    def _encode(self, examples: Sequence[Example]) -> NDArray[Any]:
        return (encode_label_sets if self.is_multi_label else encode_labels)(examples, self.classes)

    def select_train(self) -> list[Example]:
        """List the training pictures of `to_numpy`, sorted by content hash; all pictures if the split has none."""
        try:
            return self._select(TRAIN)
        except UsageError:
            return self._select(None)

    def _select(self, split: str | None) -> list[Example]:
        has_validation, several = any(image.split == VALIDATION for image in self.images), self.is_multi_label
        return select_examples(self.examples, split, self.path, has_validation=has_validation, is_multi_label=several)

    def __len__(self) -> int:
        """Return the number of pictures with features."""
        return len(self.examples)

    def __bool__(self) -> bool:
        """Return True, even for a store without features."""
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the store as its path, and how its features are computed; unpickling opens it again."""
        return self._made_by

    def __repr__(self) -> str:
        """Return path, counts and feature shape as one line."""
        described = self.contents.describe(self.path, self.examples)
        return f"FeatureStore({', '.join(f'{name}={value}' for name, value in described.items())})"

    def _repr_html_(self) -> str:
        return render_table(f"features in {self.path}", self.contents.list_rows(self.examples))
