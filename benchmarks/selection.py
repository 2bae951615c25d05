"""Coverage of the 95% confidence interval of a head that is chosen and evaluated on the same pictures.

Run `python -m benchmarks.selection`. Heads are simulated, so that their true accuracies are known.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from train_head.evaluation.uncertainty import compute_interval

Floats = NDArray[np.float64]
NUM_INPUTS, NUM_TRAIN = 60, 200


@dataclass(frozen=True)
class Draw:
    """Heads evaluated on the same pictures."""

    num_right: NDArray[np.int64]
    """(heads,) numbers of correctly classified validation pictures."""
    accuracies: Floats
    """(heads,) true accuracies."""
    chosen: int
    """Index of the chosen head."""


@dataclass(frozen=True)
class Coverage:
    """Fraction of draws in which an interval contains the true accuracy of the chosen head, and the mean bias."""

    plain: float
    """Coverage of the interval for a single head."""
    allowed: float
    """Coverage of the interval that allows for the choice among heads."""
    optimism: float
    """Mean of the chosen head's validation accuracy minus its true accuracy."""


Make = Callable[[np.random.Generator, int, int], Draw]


def measure_coverage(make: Make, num_heads: int, num_pictures: int, num_draws: int, seed: int = 0) -> Coverage:
    """Measure the coverage of two intervals: for a single head, and for the best of several heads.

    Args:
        make: draws heads, from a generator and the numbers of heads and pictures.
        num_heads: number of heads, of which one is chosen.
        num_pictures: number of pictures that evaluate each head.
        num_draws: number of repetitions.
        seed: random seed of the draws.
    """
    rng = np.random.default_rng(seed)

    @cache
    def hold(num_right: int, num_candidates: int) -> tuple[float, float]:
        return compute_interval(num_right, num_pictures, num_candidates)

    held, optimism = np.zeros(2), 0.0
    for _ in range(num_draws):
        draw = make(rng, num_heads, num_pictures)
        right, truth = int(draw.num_right[draw.chosen]), float(draw.accuracies[draw.chosen])
        for number, num_candidates in enumerate((1, num_heads)):
            low, high = hold(right, num_candidates)
            held[number] += low <= truth <= high
        optimism += right / num_pictures - truth
    return Coverage(float(held[0]) / num_draws, float(held[1]) / num_draws, optimism / num_draws)


def draw_noise(rng: np.random.Generator, num_heads: int, num_pictures: int) -> Draw:
    """Draw heads that guess: each classifies each picture correctly with probability 0.5, independently."""
    num_right = rng.binomial(num_pictures, 0.5, num_heads)
    return Draw(num_right, np.full(num_heads, 0.5), int(num_right.argmax()))


def draw_alike(rng: np.random.Generator, num_heads: int, num_pictures: int) -> Draw:
    """Draw heads of 90 to 95% accuracy with correlated errors (latent correlation 0.8)."""
    accuracies = rng.uniform(0.9, 0.95, num_heads)
    limits = np.array([NormalDist().inv_cdf(accuracy) for accuracy in accuracies])
    shared = rng.normal(size=num_pictures)
    own = rng.normal(size=(num_heads, num_pictures))
    num_right = (np.sqrt(0.8) * shared + np.sqrt(0.2) * own < limits[:, None]).sum(axis=1)
    return Draw(num_right, accuracies, int(num_right.argmax()))


def draw_trained(rng: np.random.Generator, num_heads: int, num_pictures: int) -> Draw:
    """Fit ridge classifiers with random regularisation on random halves of the inputs, and choose by accuracy."""
    truth, train, targets, inputs, labels = _draw_classes(rng, num_pictures)
    kernels = np.zeros((num_heads, NUM_INPUTS))
    for kernel in kernels:
        used = rng.permutation(NUM_INPUTS)[: NUM_INPUTS // 2]
        gram = train[:, used].T @ train[:, used] + 10 ** rng.uniform(0, 3) * np.eye(len(used))
        kernel[used] = np.linalg.solve(gram, train[:, used].T @ targets)
    return _judge(kernels, truth, inputs, labels)


def draw_epochs(rng: np.random.Generator, num_epochs: int, num_pictures: int) -> Draw:
    """Fit a logistic regression by gradient descent, and choose the epoch with the lowest validation loss."""
    truth, train, targets, inputs, labels = _draw_classes(rng, num_pictures)
    kernel, kernels = np.zeros(NUM_INPUTS), []
    for _ in range(num_epochs):
        kernel = kernel + 0.5 * train.T @ (targets / (1 + np.exp(targets * (train @ kernel)))) / len(train)
        kernels.append(kernel)
    losses = np.logaddexp(0, -labels[:, None] * (inputs @ np.array(kernels).T)).mean(axis=0)
    draw = _judge(np.array(kernels), truth, inputs, labels)
    return Draw(draw.num_right, draw.accuracies, int(losses.argmin()))


def _draw_classes(rng: np.random.Generator, num_pictures: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Draw two Gaussian classes at -center and +center; return the center, and training and validation data."""
    center = rng.normal(size=NUM_INPUTS)
    center *= rng.uniform(0.3, 1.5) / np.linalg.norm(center)
    data = []
    for num in (NUM_TRAIN, num_pictures):
        labels = rng.choice([-1.0, 1.0], num)
        data += [labels[:, None] * center + rng.normal(size=(num, NUM_INPUTS)), labels]
    return center, data[0], data[1], data[2], data[3]


def _judge(kernels: Floats, center: Floats, inputs: Floats, labels: Floats) -> Draw:
    """Evaluate linear heads. The true accuracy is the probability that a normal variable is positive."""
    num_right = (labels[:, None] * (inputs @ kernels.T) > 0).sum(axis=0)
    lengths = np.maximum(np.linalg.norm(kernels, axis=1), 1e-12)
    accuracies = np.array([NormalDist().cdf(lead) for lead in kernels @ center / lengths])
    return Draw(num_right, accuracies, int(num_right.argmax()))


CASES: dict[str, Make] = {
    "noise": draw_noise,
    "alike, 90 to 95 %": draw_alike,
    "trained ridge heads": draw_trained,
    "epochs, lowest loss": draw_epochs,
}


def main() -> None:
    """Print a table of the coverage of both intervals, by kind of heads and number of pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000, help="repetitions of each case")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"Coverage in {options.draws} draws of each case:\n")
    print("| heads | k | pictures | optimism | coverage of the 95% interval | coverage at level 1 - 0.05/k |")
    print("|---|---|---|---|---|---|")
    for name, make in CASES.items():
        for num_pictures in (40, 200, 1000):
            for num_heads in (6, 24, 100):
                found = measure_coverage(make, num_heads, num_pictures, options.draws, options.seed)
                print(
                    f"| {name} | {num_heads} | {num_pictures} | {100 * found.optimism:+.1f} points | "
                    f"{found.plain:.3f} | {found.allowed:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
