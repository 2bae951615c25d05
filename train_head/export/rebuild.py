"""Rebuild a run's backbone and head, apart, whichever way they were fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import HeadstartError
from base.terminal import Console
from features.schema import Pool
from features.store import FeatureStore
from train_head.config import NOTHING
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.finetuning.backbone import TOP, rebuild_backbone
from train_head.finetuning.tail import open_tail
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.solvers.head import HeadWeights, TunedWeights, restore_head

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Rebuilt:
    """Backbone and head of a run."""

    backbone: keras.Model
    """From prepared pixels to what the head sees; with the layers that were trained again."""
    head: keras.Model
    run_stored: Callable[[Array], Array]
    """From stored features, float32, to the head's outputs."""
    compute_logits: Callable[[Array], Array]
    """From stored features, float32, to the head's logits."""
    cut: str
    """The layer whose output the head sees."""


def rebuild_parts(run: Run, store: FeatureStore, split: Split, weights: str, console: Console) -> Rebuilt:
    """Rebuilds a run's backbone and head.

    Args:
        run: the run.
        store: the one that it was fitted on.
        split: its examples.
        weights: a weights file, or empty for the one that the store names.
        console: where progress goes.

    Raises:
        HeadstartError: the weights or the run's own files are not those that it was fitted with.
    """
    fitted, num_classes = expand_head(run, store, split.validation, console), len(run.record.classes)
    if run.unfreeze_from == NOTHING:
        backbone = rebuild_backbone(store, weights, console)
        head = restore_head(fitted, store.feature_shape, num_classes, run.dropout)
        return Rebuilt(backbone, head, head.predict_on_batch, _find_logits(head, fitted), store.fingerprint.cut)
    if not isinstance(fitted, TunedWeights):
        raise HeadstartError(
            run.folder, f"layers from {run.unfreeze_from} on", "none in head.npz", "Train again with --overwrite"
        )
    pool = Pool(run.record.config.get("pool", Pool.NONE))
    tail = open_tail(store, run.unfreeze_from, pool, weights, console)
    tail.put_kernels(fitted.tail)
    backbone, from_stored = tail.cut_whole(), tail.cut_from(store.fingerprint.cut)
    head = restore_head(fitted, backbone.output_shape[1:], num_classes, run.dropout)
    compute_logits = _find_logits(head, fitted)
    return Rebuilt(
        backbone,
        head,
        lambda stored: head.predict_on_batch(from_stored.predict_on_batch(stored)),
        lambda stored: compute_logits(from_stored.predict_on_batch(stored)),
        TOP,
    )


def _find_logits(head: keras.Sequential, weights: HeadWeights) -> Callable[[Array], Array]:
    """Return what computes a head's logits, before its sigmoid or softmax rounds sure ones to 1."""
    from train_head.solvers.full import cut_hidden

    hidden = cut_hidden(head)
    return lambda inputs: hidden.predict_on_batch(inputs) @ weights.output_kernel + weights.output_bias
