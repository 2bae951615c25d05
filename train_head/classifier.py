"""The head as a scikit-learn classifier: for pipelines, cross-validation and grid searches over features in memory."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from numbers import Integral
from types import SimpleNamespace
from typing import Any

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
from train_head.reduction.decompose import MAX_EXACT_ROWS, decompose_exactly, sketch
from train_head.reduction.matrix import FeatureMatrix, open_workers
from train_head.reduction.reduce import DEFAULT_RANK, SKETCH_SEED
from train_head.solvers import ReducedShape, choose_solver, network
from train_head.solvers.head import HeadWeights, build_head, count_outputs, extract_weights
from train_head.solvers.history import EarlyStopping, Epoch
from train_head.solvers.network import Batch, HeadTrainer
from train_head.solvers.optimizers import make_optimizer
from train_head.solvers.reduced import draw_head

PREDICTED_ROWS, PREDICTED_COLUMNS = 1024, 2048
"""The block of features that is widened to float64 at a time."""


class EstimatorError(UsageError, ValueError):
    """Invalid parameter or target of an estimator; a ValueError too, as scikit-learn's conventions demand."""


class HeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A head on extracted features: Flatten, Dense with ReLU, Dropout, and a sigmoid (softmax above two classes).

    It fits the head that `python -m train_head` fits on the same rows in the same order, without a store or a run.
    Options have the command line's names and defaults, except where scikit-learn has a convention of its own:

    - `random_state` is `--seed`, and may be None or a `RandomState`. It stays 0 by default: same data, same head.
    - `class_weight` is None, "balanced" or a dictionary from class to weight; None is the command line's "none".
    - `validation_fraction` is `--validation-split`. Rows are set aside only where `patience` is above 0, of each
      class the same share, because cross-validation brings its own validation rows.

    The default learning rate suits the many inputs of a backbone; a few standardized columns need about 0.01.

    Args:
        solver: "full" fits all inputs with Keras, "reduced" the span of the training features without TensorFlow;
            "auto" chooses by the shape of the training features.
        units: units of the hidden layer.
        dropout: share of hidden units dropped in training, from 0 to 0.99.
        epochs: passes over the training rows.
        batch_size: rows for each step.
        learning_rate: the optimizer's learning rate.
        optimizer: "rmsprop", "adam" or "sgd".
        momentum: of "sgd", share of the last change kept, from 0 to 0.999.
        l2: weight of the kernels' sum of squares in the loss.
        class_weight: how much a row of each class counts in the loss.
        patience: epochs without a better validation loss before stopping; the best is kept. 0 never stops early.
        validation_fraction: share of the rows set aside where `patience` is above 0, from 0.01 to 0.9.
        rank: inputs that the reduced solver keeps; None for 512, or as many as there are.
        random_state: seed of initial weights, order, dropout and the rows set aside.

    Attributes:
        classes_: (classes,) labels in ascending order.
        n_features_in_: numbers of a feature, flattened.
        n_iter_: epochs that were run.
        kept_epoch_: the epoch whose weights are kept, from 1.
        history_: lists of each epoch's "loss" and "accuracy", and with `patience` "val_loss" and "val_accuracy".
        solver_: "full" or "reduced".
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
        """Keep the options; `fit` checks them."""
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
            X: (n, inputs), or features of any shape, (n, height, width, channels), which are flattened; float16 and
                float32 are used as they are, other types converted to float32.
            y: (n,) labels of two or more classes.

        Raises:
            EstimatorError: an invalid option, or one class only.
            ValueError: X or y is not what scikit-learn's estimators accept.
            HeadstartError: the loss was NaN or infinite in the first epoch, or all features are zero.
        """
        self._check_options()
        X, y = validate_data(self, _flatten(X), y, dtype=[np.float32, np.float16])
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise EstimatorError("y", "two or more classes", "one class", "Add rows of another class")
        state = check_random_state(self.random_state)
        seed = int(self.random_state if isinstance(self.random_state, Integral) else state.randint(2**31 - 1))
        weights = compute_sample_weight(self.class_weight, y).astype(np.float32)
        train, validation = Batch(X, targets, weights, None), None
        if self.patience:
            sides = train_test_split(*train[:3], test_size=self.validation_fraction, stratify=y, random_state=seed)
            train, validation = (Batch._make([*sides[side::2], None]) for side in (0, 1))
        rank = min(self.rank or DEFAULT_RANK, *train.features.shape)
        if self.rank and self.rank > rank:
            raise EstimatorError("rank", f"at most {rank:,}, rows or inputs", f"{self.rank:,}", "Lower it")
        is_auto = self.solver == SolverName.AUTO
        self.solver_ = str(choose_solver(ReducedShape(len(train.features), rank))[0] if is_auto else self.solver)
        if self.solver_ == SolverName.FULL:
            import_quietly("keras")
            self.head_ = self._run(_KerasTrainer(self, seed), train, validation, seed)
        else:
            self.head_ = self._fit_reduced(train, validation, rank, seed)
        return self

    def decision_function(self, X: Any) -> Array:
        """Return the logits: (n,) log odds of the second of two classes, else (n, classes)."""
        logits = self._compute_logits(X)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X: Any) -> Array:
        """Return (n, classes) probabilities, columns in the order of `classes_`."""
        return network.compute_probabilities(self._compute_logits(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the (n,) labels of the most probable classes."""
        targets = network.predict_targets(self._compute_logits(X))
        return np.asarray(self.classes_[targets])

    def _compute_logits(self, X: Any) -> Array:
        """Compute (n, outputs) logits in float64, so that those of a row do not depend on the rows beside it."""
        check_is_fitted(self)
        X = validate_data(self, _flatten(X), dtype=[np.float32, np.float16], reset=False)
        parts = []
        for rows in gen_batches(len(X), PREDICTED_ROWS):
            panels = gen_batches(X.shape[1], PREDICTED_COLUMNS)
            hidden: Any = sum(X[rows, panel].astype(np.float64) @ self.head_.hidden_kernel[panel] for panel in panels)
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
            raise EstimatorError("class_weight", "None, balanced or a dictionary", repr(weight), "Leave it out")
        if self.learning_rate <= 0:
            raise EstimatorError("learning_rate", "a number above 0", repr(self.learning_rate), "The default is 1e-4")
        if self.momentum and self.optimizer != OptimizerName.SGD:
            raise EstimatorError("momentum", f"0 for {self.optimizer}", repr(self.momentum), "It is an option of sgd")
        if self.rank and self.solver == SolverName.FULL:
            raise EstimatorError("rank", "None for the full solver", repr(self.rank), "It is for the reduced one")

    def _fit_reduced(self, train: Batch, validation: Batch | None, rank: int, seed: int) -> HeadWeights:
        """Fit on the strongest directions of the training features, and map the kernel to all inputs."""
        X, (num_rows, num_inputs) = train.features, train.features.shape
        store: Any = SimpleNamespace(feature_shape=(num_inputs,), read=lambda rows: X[rows.start : rows.stop])
        name = OptimizerName(self.optimizer)
        config = HeadConfig(optimizer=name, learning_rate=self.learning_rate, momentum=self.momentum)
        with open_workers() as workers:
            rows = FeatureMatrix(store, range(num_rows), workers)  # type: ignore[arg-type]
            # As in `reduce_features`: where no input is left out, the sketch is exact, and the smaller problem.
            is_exact = num_rows <= MAX_EXACT_ROWS and rank < num_inputs
            basis = decompose_exactly(rows, rank) if is_exact else sketch(rows, rank, SKETCH_SEED)
            directions = basis.directions
            if directions is None:
                directions = rows.multiply_transposed(np.asarray(basis.train / basis.eigenvalues, np.float32))
            if validation:
                validation = validation._replace(features=validation.features.astype(np.float32) @ directions)
            initial = draw_head(num_inputs, basis.train.shape[1], self.units, count_outputs(len(self.classes_)), seed)
            stepper = HeadTrainer(initial, make_optimizer(config), self.l2)
            head = self._run(stepper, train._replace(features=basis.train), validation, seed)
            return replace(head, hidden_kernel=np.asarray(directions @ head.hidden_kernel, np.float32))

    @np.errstate(all="ignore")
    def _run(
        self, stepper: HeadTrainer | _KerasTrainer, train: Batch, validation: Batch | None, seed: int
    ) -> HeadWeights:
        """Run the epochs, record them in `history_`, and return the head of the last finite one, or of the best."""
        watch = EarlyStopping(self.patience)
        while len(watch.history) < self.epochs and not watch.is_over:
            loss, accuracy = self._run_epoch(stepper, train, (seed, len(watch.history)))
            head = stepper.copy_head()
            val_loss, val_accuracy = loss if math.isfinite(head.sum_squares()) else math.nan, accuracy
            if validation:
                logits = network.compute_logits(head, validation.features)
                losses, _ = network.compute_losses(logits, validation.targets)
                val_loss = float(np.mean(losses)) + self.l2 * head.sum_squares()
                val_accuracy = float(np.mean(network.predict_targets(logits) == validation.targets))
            row = Epoch(len(watch.history) + 1, loss, accuracy, val_loss, val_accuracy, seconds=0.0)
            watch.record(row, stepper.copy_head)
        head = watch.require_kept(self.learning_rate)
        self.n_iter_, self.kept_epoch_ = row.epoch, watch.kept_epoch
        names = ("loss", "accuracy", "val_loss", "val_accuracy")[: 4 if validation else 2]
        self.history_ = {name: [getattr(epoch, name) for epoch in watch.history] for name in names}
        if not row.is_finite:
            kept = f"the head of epoch {watch.kept_epoch} is kept"
            warnings.warn(f"epoch {row.epoch}: the loss is not finite; {kept}", ConvergenceWarning, stacklevel=3)
        return head

    def _run_epoch(
        self, stepper: HeadTrainer | _KerasTrainer, train: Batch, seed: tuple[int, int]
    ) -> tuple[float, float]:
        """Take the steps of an epoch; return the mean loss and the accuracy, as they were step by step."""
        order = np.random.default_rng(seed).permutation(len(train.targets))
        masks = np.random.default_rng((*seed, 2))
        total, num_right = 0.0, 0
        for batch in gen_batches(len(order), self.batch_size):
            rows = order[batch]
            mask = network.draw_mask(masks, (len(rows), self.units), self.dropout)
            step = Batch(train.features[rows], train.targets[rows], train.weights[rows], mask)
            loss, right = stepper.train_on_batch(step)
            total, num_right = total + loss * len(rows), num_right + right
        return total / len(order), num_right / len(order)


class _KerasTrainer:
    """A head that Keras fits, step by step like `HeadTrainer`; its dropout masks are its own."""

    def __init__(self, options: HeadClassifier, seed: int) -> None:
        import keras

        shape, num_classes = (options.n_features_in_,), len(options.classes_)
        self._model = build_head(shape, num_classes, options.units, options.dropout, seed, l2=options.l2)
        kind = "binary" if num_classes == 2 else "sparse_categorical"
        kinds = {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
        momentum = {"momentum": options.momentum} if options.momentum else {}
        optimizer = kinds[options.optimizer](options.learning_rate, **momentum)
        self._model.compile(optimizer, f"{kind}_crossentropy", metrics=[f"{kind}_accuracy"], jit_compile=False)

    def copy_head(self) -> HeadWeights:
        return extract_weights(self._model)

    def train_on_batch(self, batch: Batch) -> tuple[float, int]:
        self._model.reset_metrics()
        features, targets = batch.features.astype(np.float32), batch.targets[:, None].astype(np.float32)
        loss, accuracy = self._model.train_on_batch(features, targets, sample_weight=batch.weights)
        return float(loss), round(float(accuracy) * len(targets))


def _flatten(X: Any) -> Any:
    """Flatten features of more than two dimensions; scikit-learn checks everything else."""
    return np.asarray(X).reshape(len(X), -1) if getattr(X, "ndim", 2) > 2 else X
