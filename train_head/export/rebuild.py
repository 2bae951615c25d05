"""Rebuild a run's backbone and head as two separate models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from base.errors import HeadstartError
from base.terminal import Console
from features.options import Pool
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.evaluation.outliers import OutlierDetector
from train_head.export.distance import measure_features
from train_head.finetuning.backbone import TOP, find_pool, rebuild_backbone
from train_head.finetuning.tail import open_tail
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.solvers.head import TunedWeights, plan_outputs, restore_head

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ModelParts:
    """Backbone and head of a run, as separate models."""

    backbone: keras.Model
    """Model from prepared pixels to the head's inputs, with the fine-tuned layers."""
    head: keras.Model
    """Model from the backbone's output to the head's outputs."""
    run_stored: Callable[[Array], Array]
    """Function from stored features, float32, to the head's outputs."""
    compute_logits: Callable[[Array], Array]
    """Function from stored features, float32, to the head's logits, which do not saturate as probabilities do."""
    cut: str
    """Layer whose output is the head's input, or several layers separated by commas."""
    pool: Pool
    """Pooling of the layer's output."""
    is_multi_label: bool = False
    """Whether the head predicts any number of labels."""
    detector: OutlierDetector | None = None
    """Detector that computes the distance of a picture from the training pictures."""

    @property
    def measure(self) -> Callable[[Array], Array] | None:
        """Function from the head's inputs to their distances; None for a run without a detector."""
        return partial(measure_features, self.detector.model) if self.detector else None


def rebuild_parts(run: Run, store: FeatureStore, split: Split, weights: str, console: Console) -> ModelParts:
    """Rebuild the backbone and head of a run.

    Args:
        run: the run.
        store: the store that it was fitted on.
        split: its training and validation pictures.
        weights: weights file of the backbone; if empty, the one that the store records.
        console: receives messages and progress.

    Raises:
        HeadstartError: the weights, or the files of the run, differ from those of the fit.
    """
    from train_head.solvers.full import build_hidden_model

    fitted = expand_head(run, store, split.validation, console).divide_logits(run.record.temperature)
    cut = store.fingerprint.cut
    between: list[keras.Model] = []
    pool = find_pool(store)
    if run.unfreeze_from == NO_FINE_TUNING:
        backbone, feature_shape = rebuild_backbone(store, weights, console), store.feature_shape
    elif isinstance(fitted, TunedWeights):
        pool = Pool(run.record.config.get("pool", Pool.NONE))
        tail = open_tail(store, run.unfreeze_from, pool, weights, console)
        tail.set_kernels(fitted.tail)
        backbone, between, cut = tail.build_feature_extractor(), [tail.cut_from(cut)], TOP
        feature_shape = backbone.output_shape[1:]
    else:
        expected = f"fine-tuned layers from {run.unfreeze_from} on"
        raise HeadstartError(run.folder, expected, "none in head.npz", "Train it again with `overwrite`")
    outputs = plan_outputs(len(run.record.classes), is_multi_label=run.is_multi_label)
    head = restore_head(fitted, feature_shape, outputs, run.dropout)

    def run_layers(features: Array, last: keras.Model) -> Array:
        for layers in (*between, last):
            features = layers.predict_on_batch(features)
        return features

    # The lambdas must not refer to `fitted`: its hidden kernel would stay in memory.
    hidden, kernel, bias = build_hidden_model(head), fitted.output_kernel, fitted.output_bias
    return ModelParts(
        backbone,
        head,
        lambda features: run_layers(features, head),
        lambda features: run_layers(features, hidden) @ kernel + bias,
        cut,
        pool,
        run.is_multi_label,
        run.read_outliers(),
    )
