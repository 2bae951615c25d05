"""The part of the backbone that is trained again, and the stores that its two stages read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from base.errors import HeadstartError, UsageError
from base.terminal import Console, import_quietly
from extract.backbone import cut_backbone, name_layers
from features.schema import FEATURE_DTYPE, Features, Pool, count_rows_per_shard
from features.store import FeatureStore
from train_head.data.batches import Array
from train_head.finetuning.backbone import TOP, cut_tail, find_boundary, list_trained, rebuild_full_backbone

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 64


@dataclass(frozen=True)
class Tail:
    """A backbone whose last layers are trained again."""

    backbone: keras.Model
    """The whole backbone, with the weights that the features were made with."""
    store: FeatureStore
    boundary: str
    """The block's output from which on there are gradients; layers before it stay frozen."""
    trained: tuple[str, ...]
    """Convolutions."""
    pool: Pool

    def get_kernels(self) -> dict[str, Array]:
        """Copy the kernels that are trained."""
        return {name: layer.get_weights()[0] for name, layer in self._find_layers().items()}

    def set_kernels(self, kernels: Mapping[str, Array]) -> None:
        """Set the kernels that are trained; raise HeadstartError where they are of other layers or shapes."""
        layers = self._find_layers()
        shapes = {name: tuple(layer.kernel.shape) for name, layer in layers.items()}
        found = {name: kernel.shape for name, kernel in kernels.items()}
        if found != shapes:
            advice = "Train again with --overwrite"
            raise HeadstartError("the retrained layers", f"kernels of {shapes}", str(found), advice)
        for name, layer in layers.items():
            layer.set_weights([kernels[name]])

    def build_feature_extractor(self) -> keras.Model:
        """Return the backbone from pixels to the head's input."""
        return cut_backbone(self.backbone, TOP, self.pool)

    def cut_from(self, layer: str) -> keras.Model:
        """Return the part from a block's output to the head's input."""
        import keras

        tail = cut_tail(self.backbone, layer)
        if self.pool is Pool.NONE:
            return tail
        return keras.Sequential([tail, keras.layers.GlobalAveragePooling2D(name=f"pool_{TOP}")], name=tail.name)

    def open_boundary_outputs(self) -> FeatureStore:
        """Return the store with the boundary's outputs as features."""
        cut = self.store.fingerprint.cut
        if cut == self.boundary:
            return self.store
        return _extend_store(self.store, cut_tail(self.backbone, cut, self.boundary), self.boundary)

    def open_head_inputs(self) -> FeatureStore:
        """Return the store with the head's inputs as features."""
        name = TOP if self.pool is Pool.NONE else f"{TOP} {self.pool}"
        return _extend_store(self.store, self.cut_from(self.store.fingerprint.cut), name)

    def list_layers(self) -> list[keras.layers.Layer]:
        """List the layers that are trained."""
        return list(self._find_layers().values())

    def _find_layers(self) -> dict[str, keras.layers.Layer]:
        return {name: layer for layer, name in name_layers(self.backbone).items() if name in self.trained}


def open_tail(store: FeatureStore, unfreeze_from: str, pool: Pool, weights: str, console: Console) -> Tail:
    """Build the backbone of a store's features, and choose the layers that are trained again.

    Raises:
        UsageError: there is no such layer between the cut and the top.
        HeadstartError: the weights are missing, or not those of the features.
    """
    import_quietly("keras")
    backbone = rebuild_full_backbone(store, weights, console)
    boundary = find_boundary(backbone, store.fingerprint.cut, unfreeze_from)
    return Tail(backbone, store, boundary, tuple(list_trained(backbone, unfreeze_from)), pool)


def _extend_store(store: FeatureStore, model: keras.Model, name: str) -> FeatureStore:
    """Return a store with a frozen model's outputs in the place of its features, under the name of their layer."""
    if len(store.feature_shape) != 3:
        got = f"{store.feature_shape} in {store.path}"
        raise UsageError("--unfreeze-from", "features with height and width", got, "Extract without --pool")
    shape, read_rows = store.feature_shape, store.contents.read_rows

    def read_extended(shard: int, rows: Sequence[int], out: Features) -> None:
        step = count_rows_per_shard(shape)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            features = np.empty((len(some), *shape), FEATURE_DTYPE)
            read_rows(shard, some, features)
            for place in range(0, len(some), BATCH_SIZE):
                outputs = model.predict_on_batch(features[place : place + BATCH_SIZE].astype(np.float32))
                out[start + place : start + place + len(outputs)] = outputs

    extended = copy.copy(store)
    extended.contents = replace(
        store.contents,
        fingerprint=replace(store.fingerprint, cut=f"{name} of stored {store.fingerprint.cut}"),
        origin=replace(store.origin, feature_shape=tuple(model.output_shape[1:])),
        read_rows=read_extended,
    )
    return extended
