"""A head as a scikit-learn classifier, for pipelines, cross-validation and grid searches on features in memory."""

from __future__ import annotations

import math
import warnings
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from base.errors import UsageError
from base.options import convert_value, list_options
from base.terminal import import_quietly
from train_head.config import HeadConfig, OptimizerName, SolverName
from train_head.data.batches import Array
from train_head.reduction.matrix import open_workers
from train_head.reduction.reduce import DEFAULT_RANK
from train_head.solvers import DEFAULT_SOLVER, network
from train_head.solvers.arrays import decompose, find_directions, fit_ridge_arrays, open_matrix
from train_head.solvers.head import HeadWeights, count_outputs
from train_head.solvers.history import EarlyStopping, Epoch
from train_head.solvers.network import Batch, HeadTrainer
from train_head.solvers.optimizers import make_optimizer
from train_head.solvers.reduced import draw_head

if TYPE_CHECKING:
    from train_head.solvers.full import KerasTrainer

BLOCK_ROWS, BLOCK_COLUMNS = 1024, 2048
"""Shape of the largest block of features that is converted to float64 at a time."""


class EstimatorError(UsageError, ValueError):
    """Invalid parameter or target of an estimator. It is also a ValueError, as scikit-learn requires."""


class HeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A head on extracted features: Flatten, Dense with ReLU, Dropout and a sigmoid output (softmax above two classes).

    It fits the same head as `python -m train_head` on the same rows in the same order, without a store or a run.
    Parameters have the names and defaults of the command line, except where scikit-learn has its own convention:

    - `random_state` is `--seed`; None and a `RandomState` are also accepted. The default is 0, so that the same data
      give the same head.
    - `class_weight` is None (the command line's "none"), "balanced" or a dictionary from class to weight.
    - `validation_fraction` is `--validation-split`. Rows are set aside (stratified by class) only if `patience` is
      above 0, because cross-validation provides its own validation rows.

    The default learning rate suits the many inputs from a backbone. For a few standardized columns, use about 0.01.

    Args:
        solver: "full" trains on all inputs with Keras; "reduced" trains on principal directions of the training
            features, without TensorFlow; "auto" chooses one of them by the shape of the training features; "ridge"
            fits a linear head by least squares, and ignores all other parameters except `class_weight` and `rank`.
        units: number of units in the hidden layer. 0 fits a linear head, without hidden layer and dropout.
        dropout: fraction of the hidden units dropped in training, from 0 to 0.99.
        epochs: number of passes over the training rows.
        batch_size: number of rows in a training step.
        learning_rate: learning rate of the optimizer.
        optimizer: "rmsprop", "adam" or "sgd".
        momentum: momentum from 0 to 0.999, for the optimizer "sgd" only.
        l2: L2 penalty: weight of the sum of squared kernel weights in the loss.
        class_weight: weight of each class in the loss.
        patience: stop after this many epochs without a lower validation loss, and keep the best epoch. 0 runs all
            epochs.
        validation_fraction: fraction of the rows set aside if `patience` is above 0, from 0.01 to 0.9.
        rank: number of inputs that the solver keeps; None for the default of the command line.
        random_state: seed for initial weights, order, dropout and the rows set aside.

    Attributes:
        classes_: (classes,) labels in ascending order.
        n_features_in_: number of inputs, flattened.
        n_iter_: number of epochs run.
        kept_epoch_: number of the epoch whose weights are kept, from 1.
        history_: dictionary of lists, one value for each epoch: "loss" and "accuracy"; with `patience` also "val_loss"
            and "val_accuracy".
        solver_: "full", "reduced" or "ridge".
        penalty_: penalty of the solver ridge, with the lowest leave-one-out error.
        head_: `HeadWeights`, float32 arrays on all inputs.
    """

    def __init__(
        self,
        *,
        solver: str = "auto",
        units: int = 1024,
        dropout: float = 0.2,
        epochs: int = 20,
        batch_size: int = 20,
        learning_rate: float = 1e-4,
        optimizer: str = "rmsprop",
        momentum: float = 0.0,
        l2: float = 0.0,
        class_weight: dict[Any, float] | str | None = None,
        patience: int = 0,
        validation_fraction: float = 0.2,
        rank: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        """Store the parameters; `fit` checks them."""
        self.solver = solver
        self.units = units
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.momentum = momentum
        self.l2 = l2
        self.class_weight = class_weight
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.rank = rank
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> HeadClassifier:
        """Fit the head.

        Args:
            X: (n, inputs), or features of any other shape, such as (n, height, width, channels), which are flattened.
                float16 and float32 are used unchanged; other types are converted to float32.
            y: (n,) labels of two or more classes.

        Raises:
            EstimatorError: a parameter is invalid, or `y` has only one class.
            ValueError: X or y is invalid for a scikit-learn classifier.
            HeadstartError: the loss is NaN or infinite in the first epoch, or all features are zero.

        Warns:
            ConvergenceWarning: the loss became NaN or infinite later; the last finite epoch is kept.
        """
        self._check_options()
        if getattr(y, "ndim", 1) == 2 and y.shape[1] > 1:
            advice = "Wrap the classifier in sklearn.multioutput.MultiOutputClassifier, or train on the store"
            raise EstimatorError("y", "one label for each row, (n,)", f"an array of shape {y.shape}", advice)
        X, y = validate_data(self, _flatten(X), y, dtype=[np.float32, np.float16])
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise EstimatorError("y", "two or more classes", "one class", "Add rows of another class")
        state = check_random_state(self.random_state)
        seed = int(self.random_state if isinstance(self.random_state, Integral) else state.randint(2**31 - 1))
        weights = compute_sample_weight(self.class_weight, y).astype(np.float32)
        train, validation = Batch(X, targets, weights, None), None
        if self.patience and self.solver != SolverName.RIDGE:
            parts = train_test_split(*train[:3], test_size=self.validation_fraction, stratify=y, random_state=seed)
            train, validation = Batch._make([*parts[::2], None]), Batch._make([*parts[1::2], None])
        rank = min(self.rank or DEFAULT_RANK, *train.features.shape)
        if self.rank and self.rank > rank:
            expected = f"at most {rank:,}, the smaller of rows and inputs"
            raise EstimatorError("rank", expected, f"{self.rank:,}", "Give a smaller rank")
        self.solver_ = str(DEFAULT_SOLVER if self.solver == SolverName.AUTO else self.solver)
        if self.solver_ == SolverName.FULL:
            import_quietly("keras")
            from train_head.solvers.full import KerasTrainer

            trainer = KerasTrainer(X.shape[1], len(self.classes_), self._make_config(), seed)
            self.head_ = self._run(trainer, train, validation, seed)
        elif self.solver_ == SolverName.RIDGE:
            found, loss, accuracy = fit_ridge_arrays(train, len(self.classes_), self.rank)
            self.head_, self.penalty_, self.n_iter_, self.kept_epoch_ = found.weights, found.penalty, 1, 1
            self.history_ = {"loss": [loss], "accuracy": [accuracy]}
        else:
            self.head_ = self._fit_reduced(train, validation, rank, seed)
        return self

    def decision_function(self, X: Any) -> Array:
        """Return the logits: (n,) log odds of the second class of two, or (n, classes) for more."""
        logits = self._compute_logits(X)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X: Any) -> Array:
        """Return (n, classes) probabilities; the columns are in the order of `classes_`."""
        return network.compute_probabilities(self._compute_logits(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the (n,) labels of the most probable classes."""
        targets = network.predict_targets(self._compute_logits(X))
        return np.asarray(self.classes_[targets])

    def _compute_logits(self, X: Any) -> Array:
        """Compute (n, outputs) logits, in float64 so that a row's logits do not depend on the other rows."""
        check_is_fitted(self)
        X = validate_data(self, _flatten(X), dtype=[np.float32, np.float16], reset=False)
        parts = []
        for rows in gen_batches(len(X), BLOCK_ROWS):
            panels = gen_batches(X.shape[1], BLOCK_COLUMNS)
            hidden: Any = sum(X[rows, panel].astype(np.float64) @ self.head_.input_kernel[panel] for panel in panels)
            parts.append(network.compute_outputs(self.head_, hidden))
        return np.concatenate(parts)

    def _check_options(self) -> None:
        declared = {option.name: option for option in list_options(HeadConfig)}
        declared["validation_fraction"] = declared["validation_split"]._replace(name="validation_fraction")
        for name in self.get_params().keys() & declared.keys() - {"class_weight"}:
            try:
                convert_value(declared[name], getattr(self, name))
            except UsageError as error:
                raise EstimatorError(*error.args) from error
        weight = self.class_weight
        if weight is not None and weight != "balanced" and not isinstance(weight, dict):
            raise EstimatorError("class_weight", "None, 'balanced' or a dictionary", repr(weight), "Leave it out")
        if self.learning_rate <= 0:
            raise EstimatorError("learning_rate", "a number above 0", repr(self.learning_rate), "Try 1e-4, the default")
        if self.momentum and self.optimizer != OptimizerName.SGD:
            expected = f"0 for the optimizer {self.optimizer}"
            raise EstimatorError("momentum", expected, repr(self.momentum), "Leave it out, or use the optimizer sgd")
        if self.rank and self.solver == SolverName.FULL:
            advice = "Leave it out, or use the solver reduced"
            raise EstimatorError("rank", "None for the solver full", repr(self.rank), advice)

    def _make_config(self) -> HeadConfig:
        """Return the options of the hidden layer and of the optimizer."""
        options = {name: getattr(self, name) for name in ("units", "dropout", "l2", "learning_rate", "momentum")}
        return HeadConfig(optimizer=OptimizerName(self.optimizer), **options)

    def _fit_reduced(self, train: Batch, validation: Batch | None, rank: int, seed: int) -> HeadWeights:
        """Fit on the principal directions of the training features, and map the kernel back to all inputs."""
        num_inputs = train.features.shape[1]
        with open_workers() as workers:
            rows = open_matrix(train.features, workers)
            basis = decompose(rows, rank)
            directions = find_directions(rows, basis)
            if validation:
                validation = validation._replace(features=validation.features.astype(np.float32) @ directions)
            initial = draw_head(num_inputs, basis.train.shape[1], self.units, count_outputs(len(self.classes_)), seed)
            trainer = HeadTrainer(initial, make_optimizer(self._make_config()), self.l2)
            head = self._run(trainer, train._replace(features=basis.train), validation, seed)
            return head.with_input_kernel(np.asarray(directions @ head.input_kernel, np.float32))

    @np.errstate(all="ignore")
    def _run(
        self, trainer: HeadTrainer | KerasTrainer, train: Batch, validation: Batch | None, seed: int
    ) -> HeadWeights:
        """Run the epochs, record them in `history_`, and return the last finite head, or the best one with patience."""
        stopping = EarlyStopping(self.patience)
        while len(stopping.history) < self.epochs and not stopping.is_over:
            loss, accuracy = self._run_epoch(trainer, train, (seed, len(stopping.history)))
            head = trainer.copy_head()
            val_loss, val_accuracy = loss if math.isfinite(head.sum_squares()) else math.nan, accuracy
            if validation:
                logits = network.compute_logits(head, validation.features)
                losses, _ = network.compute_losses(logits, validation.targets)
                val_loss = float(np.mean(losses)) + self.l2 * head.sum_squares()
                val_accuracy = float(np.mean(network.predict_targets(logits) == validation.targets))
            row = Epoch(len(stopping.history) + 1, loss, accuracy, val_loss, val_accuracy, seconds=0.0)
            stopping.record(row, trainer.copy_head)
        head = stopping.require_kept(self.learning_rate)
        self.n_iter_, self.kept_epoch_ = row.epoch, stopping.kept_epoch
        names = ("loss", "accuracy", "val_loss", "val_accuracy")[: 4 if validation else 2]
        self.history_ = {name: [getattr(epoch, name) for epoch in stopping.history] for name in names}
        if not row.is_finite:
            text = f"The loss of epoch {row.epoch} is not finite. The head of epoch {stopping.kept_epoch} is kept. "
            warnings.warn(f"{text}Use a smaller learning rate.", ConvergenceWarning, stacklevel=3)
        return head

    def _run_epoch(
        self, trainer: HeadTrainer | KerasTrainer, train: Batch, seed: tuple[int, int]
    ) -> tuple[float, float]:
        """Run the training steps of one epoch; return the mean loss and the accuracy, measured during these steps."""
        order = np.random.default_rng(seed).permutation(len(train.targets))
        masks = np.random.default_rng((*seed, 2))
        total, num_correct = 0.0, 0
        for batch in gen_batches(len(order), self.batch_size):
            rows = order[batch]
            mask = network.draw_mask(masks, (len(rows), self.units), self.dropout)
            step = Batch(train.features[rows], train.targets[rows], train.weights[rows], mask)
            loss, batch_correct = trainer.train_on_batch(step)
            total, num_correct = total + loss * len(rows), num_correct + batch_correct
        return total / len(order), num_correct / len(order)


def _flatten(X: Any) -> Any:
    """Flatten features of more than two dimensions. scikit-learn checks everything else."""
    return np.asarray(X).reshape(len(X), -1) if getattr(X, "ndim", 2) > 2 else X
