"""The part of the backbone that is trained again, and the stores that its two stages read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import HeadstartError
from base.terminal import Console, import_quietly
from extract.backbone import cut_backbone, name_layers
from features.schema import Pool
from features.store import FeatureStore
from train_head.data.batches import Array
from train_head.finetuning.backbone import TOP, cut_tail, find_boundary, list_trained, rebuild_whole
from train_head.finetuning.store_view import extend_store

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Tail:
    """A backbone of which the last layers are trained again."""

    backbone: keras.Model
    """The whole of it, with the weights that the features were made with."""
    store: FeatureStore
    boundary: str
    """The block's output where training begins to have gradients; before it everything stays."""
    trained: tuple[str, ...]
    """Convolutions."""
    pool: Pool

    def list_kernels(self) -> dict[str, Array]:
        """Copies the kernels that are trained."""
        return {name: layer.get_weights()[0] for name, layer in self._find_layers().items()}

    def put_kernels(self, kernels: Mapping[str, Array]) -> None:
        """Gives the backbone kernels that were trained again.

        Raises:
            HeadstartError: they are of other layers, or of other shapes.
        """
        layers = self._find_layers()
        shapes = {name: tuple(layer.kernel.shape) for name, layer in layers.items()}
        found = {name: kernel.shape for name, kernel in kernels.items()}
        if found != shapes:
            raise HeadstartError(
                "the retrained layers", f"kernels of {shapes}", str(found), "Train again with --overwrite"
            )
        for name, layer in layers.items():
            layer.set_weights([kernels[name]])

    def cut_whole(self) -> keras.Model:
        """Returns the backbone from pixels to what the head sees."""
        return cut_backbone(self.backbone, TOP, self.pool)

    def cut_from(self, layer: str) -> keras.Model:
        """Returns the part from a block's output to what the head sees."""
        import keras

        tail = cut_tail(self.backbone, layer)
        if self.pool is Pool.NONE:
            return tail
        return keras.Sequential([tail, keras.layers.GlobalAveragePooling2D(name=f"pool_{TOP}")], name=tail.name)

    def open_boundary(self) -> FeatureStore:
        """Returns the store as it looks at the boundary."""
        cut = self.store.fingerprint.cut
        if cut == self.boundary:
            return self.store
        return extend_store(self.store, cut_tail(self.backbone, cut, self.boundary), self.boundary)

    def open_top(self) -> FeatureStore:
        """Returns the store as the head sees it."""
        name = TOP if self.pool is Pool.NONE else f"{TOP} {self.pool}"
        return extend_store(self.store, self.cut_from(self.store.fingerprint.cut), name)

    def list_layers(self) -> list[keras.layers.Layer]:
        """Lists the layers that are trained."""
        return list(self._find_layers().values())

    def _find_layers(self) -> dict[str, keras.layers.Layer]:
        return {name: layer for layer, name in name_layers(self.backbone).items() if name in self.trained}


def open_tail(store: FeatureStore, unfreeze_from: str, pool: Pool, weights: str, console: Console) -> Tail:
    """Builds the backbone of a store's features, and decides what of it is trained again.

    Args:
        store: with features of a cut before the top.
        unfreeze_from: the first layer that is trained again.
        pool: what is done to the top's output before the head.
        weights: a weights file, or empty for the one that the store names.
        console: told what was found.

    Raises:
        UsageError: there is no such layer between the cut and the top.
        HeadstartError: the weights cannot be had, or are not those of the features.
    """
    import_quietly("keras")
    backbone = rebuild_whole(store, weights, console)
    boundary = find_boundary(backbone, store.fingerprint.cut, unfreeze_from)
    return Tail(backbone, store, boundary, tuple(list_trained(backbone, unfreeze_from)), pool)
