"""Rebuild a run's backbone and head, apart, whichever way they were fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import HeadstartError
from base.terminal import Console
from features.schema import Pool
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.finetuning.backbone import TOP, rebuild_backbone
from train_head.finetuning.tail import open_tail
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.solvers.head import TunedWeights, restore_head

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Rebuilt:
    """Backbone and head of a run."""

    backbone: keras.Model
    """From prepared pixels to the head's inputs; with the layers that were trained again."""
    head: keras.Model
    run_stored: Callable[[Array], Array]
    """From stored features, float32, to the head's outputs."""
    compute_logits: Callable[[Array], Array]
    """From stored features, float32, to the head's logits, before a sigmoid or softmax rounds them to 0 or 1."""
    cut: str
    """The layer whose output is the head's input."""


def rebuild_parts(run: Run, store: FeatureStore, split: Split, weights: str, console: Console) -> Rebuilt:
    """Rebuild a run's backbone and head, with `weights`, or those that the store names where that is empty.

    Raises:
        HeadstartError: the weights or the run's own files are not those that it was fitted with.
    """
    from train_head.solvers.full import build_hidden_model

    fitted, cut = expand_head(run, store, split.validation, console), store.fingerprint.cut
    between: list[keras.Model] = []
    if run.unfreeze_from == NO_FINE_TUNING:
        backbone, feature_shape = rebuild_backbone(store, weights, console), store.feature_shape
    elif isinstance(fitted, TunedWeights):
        pool = Pool(run.record.config.get("pool", Pool.NONE))
        tail = open_tail(store, run.unfreeze_from, pool, weights, console)
        tail.set_kernels(fitted.tail)
        backbone, between, cut = tail.build_feature_extractor(), [tail.cut_from(cut)], TOP
        feature_shape = backbone.output_shape[1:]
    else:
        raise HeadstartError(
            run.folder, f"layers from {run.unfreeze_from} on", "none in head.npz", "Train again with --overwrite"
        )
    head = restore_head(fitted, feature_shape, len(run.record.classes), run.dropout)

    def run_layers(features: Array, last: keras.Model) -> Array:
        for layers in (*between, last):
            features = layers.predict_on_batch(features)
        return features

    # The functions below keep no other array of the fitted head.
    hidden, kernel, bias = build_hidden_model(head), fitted.output_kernel, fitted.output_bias
    return Rebuilt(
        backbone,
        head,
        lambda features: run_layers(features, head),
        lambda features: run_layers(features, hidden) @ kernel + bias,
        cut,
    )
