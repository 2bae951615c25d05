"""Engine that runs the backbone as a frozen TensorFlow graph; the default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.errors import UsageError
from extract.config import Precision
from extract.engines import Streams

if TYPE_CHECKING:
    import keras


class TensorFlowEngine:
    """TensorFlow engine for a cut backbone with one or more outputs.

    The weights become constants of the graph. TensorFlow then folds batch normalization into the convolutions and
    packs the kernels only once (measurements: docs/explanation/performance.md).
    """

    def __init__(self, model: keras.Model, precision: Precision = Precision.FLOAT32) -> None:
        """Freeze the model; with bfloat16, TensorFlow runs convolutions and the layers between them in bfloat16.

        Raises:
            UsageError: the precision is bfloat16 and TensorFlow uses a GPU, where it would compute in float32.
        """
        import tensorflow as tf

        if precision is Precision.BFLOAT16 and tf.config.list_physical_devices("GPU"):
            raise UsageError("--precision bfloat16", "a computer without a GPU", "a GPU", "Leave the option out")
        self._options = {"auto_mixed_precision_onednn_bfloat16": precision is Precision.BFLOAT16}
        self._graph = freeze_model(model)

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the backbone; see `Engine.run`."""
        import tensorflow as tf

        # Set on each call, because each thread has its own copy of the options.
        tf.config.optimizer.set_experimental_options(self._options)
        return [output.numpy() for output in self._graph(tf.convert_to_tensor(batch))]


def cast_to_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Convert numbers to float16 with the processor's instructions; bit for bit as NumPy does, except NaN.

    NumPy converts one number at a time: 0.15 ms for a feature of mixed7, instead of 0.02.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        converted: NDArray[np.float16] = tf.cast(values, tf.float16).numpy()
    return converted


def freeze_model(model: keras.Model) -> Any:
    """Return a `ConcreteFunction` from a batch to the list of the model's outputs, with constant weights."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.float32)
    graph = tf.function(lambda batch: model(batch, training=False), autograph=False).get_concrete_function(signature)
    return convert_variables_to_constants_v2(graph)


def configure_tensorflow(streams: Streams) -> bool:
    """Set the number of TensorFlow threads; return False if TensorFlow is already initialized and keeps its number."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(streams.num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(streams.num_streams)
    except RuntimeError:
        return False
    return True


def describe_devices() -> str:
    """Return the names of the devices that TensorFlow uses."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return f"{len(gpus)} GPU ({', '.join(names)})" if gpus else "CPU"
