"""Fine-tuning in two stages: first the head alone, then the last layers of the backbone with the head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import keras
import numpy as np

from base.terminal import Console
from train_head.data.batches import Array
from train_head.evaluation.metrics import find_correct
from train_head.evaluation.uncertainty import name_accuracy
from train_head.finetuning.tail import Tail
from train_head.solvers import Fit, Problem, Solve
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.full import Fittable, build_hidden_model, fit_model, set_weights
from train_head.solvers.head import HeadWeights, TunedWeights, build_head, extract_weights, plan_outputs
from train_head.solvers.history import DivergedError, Epoch


def add_fine_tuning(solve: Solve, tail: Tail) -> Solve:
    """Return a solver that fits the head with `solve`, and then fine-tunes the tail and the head together."""

    def fit_tuned(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
        return _FineTuning(tail, problem, checkpoint, console, tail.get_kernels()).fit(solve)

    fit_tuned.__name__ = f"{solve.__name__} and {' '.join(tail.trained)}"
    return fit_tuned


@dataclass(frozen=True)
class _FineTuning:
    """Fine-tuning of one problem."""

    tail: Tail
    problem: Problem
    checkpoint: Checkpoint
    console: Console
    initial: dict[str, Array]
    """Kernels of the tail before fine-tuning."""

    def fit(self, solve: Solve) -> Fit:
        """Run both stages, and return their epochs as one history."""
        try:
            head = self._fit_head(solve)
            return self._fit_both(head) if head.history[-1].is_finite else self._keep_head(head, head.history)
        finally:
            # The next seed or fold starts from the same backbone.
            self.tail.set_kernels(self.initial)

    def _fit_head(self, solve: Solve) -> Fit:
        problem, top = self.problem, self.tail.open_head_inputs()
        fit = solve(replace(problem, store=top), self.checkpoint.derive("head"), self.console)
        accuracy = find_correct(problem.split.encode(problem.split.validation), fit.validation_probabilities).mean()
        name = name_accuracy(is_multi_label=problem.split.is_multi_label)
        self.console.info(f"head before fine-tuning: validation {name} {accuracy:.4f}")
        if not fit.reduction:
            return fit
        kernel = fit.reduction.expansion.expand_kernel(top, fit.weights.input_kernel)
        return replace(fit, weights=fit.weights.with_input_kernel(kernel), reduction=None)

    def _fit_both(self, head: Fit) -> Fit:
        problem, offset, before = self.problem, len(head.history), head.history[head.kept_epoch - 1]
        config = replace(
            problem.config,
            learning_rate=problem.config.fine_tune_learning_rate,
            epochs=problem.config.fine_tune_epochs,
        )

        def shift(row: Epoch) -> Epoch:
            return replace(row, epoch=row.epoch + offset)

        store = self.tail.open_boundary_outputs()
        boundary = replace(
            problem, store=store, config=config, on_epoch_end=lambda row: problem.on_epoch_end(shift(row))
        )
        self.checkpoint.extend_key(hashlib.sha256(np.ascontiguousarray(head.weights.input_kernel).data).digest())
        try:
            fit = fit_model(boundary, self._build(head.weights), self.checkpoint, self.console)
        except DivergedError as error:
            # The first stage ended with a finite loss, so its head is kept.
            return replace(self._keep_head(head, [*head.history, shift(error.row)]), before_tuning=before)
        history = [*head.history, *map(shift, fit.history)]
        if config.patience and before.val_loss <= fit.history[fit.kept_epoch - 1].val_loss:
            # The best epoch belongs to the first stage.
            return replace(self._keep_head(head, history), before_tuning=before)
        return replace(fit, history=history, kept_epoch=fit.kept_epoch + offset, before_tuning=before)

    def _keep_head(self, head: Fit, history: list[Epoch]) -> Fit:
        """Return the head of the first stage, with the initial kernels of the tail."""
        return replace(head, weights=_add_tail(head.weights, self.initial), history=history)

    def _build(self, weights: HeadWeights) -> Fittable:
        """Build the model from the boundary's output to the probabilities."""
        config, tail = self.problem.config, self.tail.cut_from(self.tail.boundary)
        keras.utils.set_random_seed(config.seed)
        split = self.problem.split
        outputs = plan_outputs(len(split.classes), is_multi_label=split.is_multi_label)
        head = build_head(tail.output_shape[1:], outputs, config.units, config.dropout, config.seed, l2=config.l2)
        set_weights(head, weights)
        for layer in self.tail.list_layers():
            layer.trainable = True
        features = keras.Input(tail.input_shape[1:], name="feature")
        model = keras.Model(features, head(tail(features)), name="tuned")

        def take() -> TunedWeights:
            return _add_tail(extract_weights(head), self.tail.get_kernels())

        def put(kept: HeadWeights) -> None:
            set_weights(head, kept)
            if isinstance(kept, TunedWeights):
                self.tail.set_kernels(kept.tail)

        hidden = keras.Sequential(
            [keras.Input(tail.input_shape[1:]), tail, build_hidden_model(head)], name="tuned_hidden"
        )
        return Fittable(model, take, put, hidden)


def _add_tail(weights: HeadWeights, kernels: dict[str, Array]) -> TunedWeights:
    hidden = weights.hidden_kernel, weights.hidden_bias
    return TunedWeights(*hidden, weights.output_kernel, weights.output_bias, tail=kernels)
