"""The part of the backbone that is fine-tuned, and the features that the two stages of a fit read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from base.errors import HeadstartError, UsageError
from base.terminal import Console, import_quietly
from extract.backbone import cut_backbone, name_layers
from features.options import Pool
from features.schema import FEATURE_DTYPE, Features
from features.shards.size import count_rows_per_shard
from features.store import FeatureStore
from train_head.data.batches import Array
from train_head.finetuning.backbone import TOP, cut_tail, find_boundary, list_trained, rebuild_full_backbone

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 64


@dataclass(frozen=True)
class Tail:
    """A backbone whose last layers are fine-tuned."""

    backbone: keras.Model
    """The full backbone, with the weights that the features were extracted with."""
    store: FeatureStore
    boundary: str
    """The block's output at which gradients end. The layers before it stay frozen."""
    trained: tuple[str, ...]
    """Names of the convolutions that are fine-tuned."""
    pool: Pool

    def get_kernels(self) -> dict[str, Array]:
        """Return a copy of the fine-tuned kernels, keyed by layer name."""
        return {name: layer.get_weights()[0] for name, layer in self._find_layers().items()}

    def set_kernels(self, kernels: Mapping[str, Array]) -> None:
        """Set the fine-tuned kernels; raise HeadstartError for other layers or shapes."""
        layers = self._find_layers()
        shapes = {name: tuple(layer.kernel.shape) for name, layer in layers.items()}
        found = {name: kernel.shape for name, kernel in kernels.items()}
        if found != shapes:
            advice = "Train again with `overwrite`"
            raise HeadstartError("the fine-tuned layers", f"kernels of {shapes}", str(found), advice)
        for name, layer in layers.items():
            layer.set_weights([kernels[name]])

    def build_feature_extractor(self) -> keras.Model:
        """Return the model from pixels to the input of the head."""
        return cut_backbone(self.backbone, TOP, self.pool)

    def cut_from(self, layer: str) -> keras.Model:
        """Return the model from a block's output to the input of the head."""
        import keras

        tail = cut_tail(self.backbone, layer)
        if self.pool is Pool.NONE:
            return tail
        return keras.Sequential([tail, keras.layers.GlobalAveragePooling2D(name=f"pool_{TOP}")], name=tail.name)

    def open_boundary_outputs(self) -> FeatureStore:
        """Return the store with the outputs of the boundary as features."""
        cut = self.store.fingerprint.cut
        if cut == self.boundary:
            return self.store
        return _extend_store(self.store, cut_tail(self.backbone, cut, self.boundary), self.boundary)

    def open_head_inputs(self) -> FeatureStore:
        """Return the store with the inputs of the head as features."""
        name = TOP if self.pool is Pool.NONE else f"{TOP} {self.pool}"
        return _extend_store(self.store, self.cut_from(self.store.fingerprint.cut), name)

    def list_layers(self) -> list[keras.layers.Layer]:
        """List the fine-tuned layers."""
        return list(self._find_layers().values())

    def _find_layers(self) -> dict[str, keras.layers.Layer]:
        return {name: layer for layer, name in name_layers(self.backbone).items() if name in self.trained}


def open_tail(store: FeatureStore, unfreeze_from: str, pool: Pool, weights: str, console: Console) -> Tail:
    """Build the backbone of a store's features, and choose the layers to fine-tune.

    Args:
        store: the store.
        unfreeze_from: name of the first layer to fine-tune.
        pool: `avg` if the head is fitted on channel means.
        weights: a weights file; empty for the weights that the store records.
        console: output of messages.

    Raises:
        UsageError: the layer is not between the stored cut and `TOP`.
        HeadstartError: the weights are missing, or differ from those of the features.
    """
    import_quietly("keras")
    backbone = rebuild_full_backbone(store, weights, console)
    boundary = find_boundary(backbone, store.fingerprint.cut, unfreeze_from)
    return Tail(backbone, store, boundary, tuple(list_trained(backbone, unfreeze_from)), pool)


def _extend_store(store: FeatureStore, model: keras.Model, name: str) -> FeatureStore:
    """Return a store whose features are the outputs of a frozen model; `name` becomes part of the cut's name."""
    if len(store.feature_shape) != 3:
        got = f"{store.feature_shape} in {store.path}"
        raise UsageError("--unfreeze-from", "features with height and width", got, "Extract again without `pool`")
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
