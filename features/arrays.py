"""Read features into one array, or stream them as a `tf.data.Dataset`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from math import prod
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError, UsageError
from base.terminal import import_quietly
from features.contents import Example
from features.schema import Features
from features.shards.size import count_rows_per_shard

DTYPES = ("float16", "float32", "float64")
_MEMORY_FILE = Path("/proc/meminfo")

Read = Callable[[Sequence[Example]], Features]


def read_array(read: Read, examples: Sequence[Example], feature_shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Read the features of examples into an array of shape (len(examples), *feature_shape).

    Raises:
        UsageError: `dtype` is not float16, float32 or float64.
        HeadstartError: the array needs more than the free memory; nothing is allocated.
    """
    if dtype not in DTYPES:
        raise UsageError("dtype", f"one of {', '.join(DTYPES)}", repr(dtype), "Give one of these")
    shape = (len(examples), *feature_shape)
    needed, free = prod(shape) * np.dtype(dtype).itemsize, find_free_memory()
    if free is not None and needed > free:
        expected = f"{needed:,} free bytes for an array of shape {shape} and dtype {dtype}"
        advice = 'Use dtype="float16", read one split, or open the store with pool="avg"'
        raise HeadstartError("memory", expected, f"{free:,}", advice)
    array = np.empty(shape, dtype)
    order = sorted(range(len(examples)), key=lambda position: (examples[position].shard, examples[position].row))
    step = count_rows_per_shard(feature_shape)
    for start in range(0, len(order), step):
        block = order[start : start + step]
        array[block] = read([examples[position] for position in block])
    return array


def find_free_memory() -> int | None:
    """Return the number of free bytes of memory, or None if the system does not report it."""
    if _MEMORY_FILE.exists():
        for line in _MEMORY_FILE.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def stream_dataset(
    read: Read, examples: Sequence[Example], classes: NDArray[Any], feature_shape: tuple[int, ...], batch_size: int
) -> Any:
    """Return a `tf.data.Dataset` of batches of features and class numbers; it loads about one shard at a time.

    Args:
        read: reads the features of examples.
        examples: the examples, in the order of the rows.
        classes: the class numbers, (n,); or (n, classes), 0 or 1 for each label.
        feature_shape: shape of one feature.
        batch_size: number of rows in a batch.

    Raises:
        UsageError: `batch_size` is not a positive integer.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise UsageError("batch_size", "a positive integer", repr(batch_size), "Give a positive integer")
    num_read = max(1, count_rows_per_shard(feature_shape) // batch_size) * batch_size

    def generate() -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        for start in range(0, len(examples), num_read):
            features = read(examples[start : start + num_read])
            for row in range(0, len(features), batch_size):
                batch = features[row : row + batch_size].astype(np.float32)
                yield batch, classes[start + row : start + row + len(batch)]

    # The store works without TensorFlow, which is imported only here.
    import_quietly("tensorflow")
    tf = sys.modules["tensorflow"]
    signature = (
        tf.TensorSpec((None, *feature_shape), tf.float32),
        tf.TensorSpec((None, *classes.shape[1:]), classes.dtype),
    )
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(examples) // batch_size)))
