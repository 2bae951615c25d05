"""LiteRT (TensorFlow Lite) file with the signature `serving_default`, and the class names in a zip archive at its end.

The archive is that of TensorFlow Lite's metadata: its members are not compressed, and runtimes ignore it.
Source: https://ai.google.dev/edge/litert/conversion/tensorflow/metadata
"""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from base.errors import HeadstartError
from base.streams import hide_native_stderr
from extract.engines import count_cores
from train_head.data.batches import Array
from train_head.export.config import Dtype, Format
from train_head.export.description import DESCRIPTION_FILE
from train_head.export.formats import FORMATS, Source
from train_head.export.formats.rounding import round_convolutions
from train_head.export.formats.saved_model import SIGNATURE, save_function
from train_head.export.outputs import DISTANCE, PROBABILITY, Outputs
from train_head.runs.card import LABELS_FILE, format_labels


def convert(source: Source, folder: Path) -> None:
    """Write `model.tflite`."""
    import tensorflow as tf

    if source.dtype is Dtype.INT8 and source.pictures is not None:
        round_convolutions(source.model, source.pictures)
    with TemporaryDirectory(dir=folder) as aside:
        save_function(source.function, Path(aside))
        converter = tf.lite.TFLiteConverter.from_saved_model(aside)
        if source.dtype is not Dtype.FLOAT32:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if source.dtype is Dtype.FLOAT16:
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    path = folder / FORMATS[Format.LITERT].path
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LABELS_FILE, format_labels(source.card.classes))
        archive.writestr(DESCRIPTION_FILE, source.encode_description())


def load(path: Path) -> Callable[[Array], Outputs]:
    """Load `model.tflite`; see `FormatModule.load`. The function is thread-safe; it runs one call at a time."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        # A path with bytes that are not UTF-8 can only be given as bytes.
        with hide_native_stderr():
            interpreter = Interpreter(os.fsencode(path), num_threads=count_cores(0))
            runner = interpreter.get_signature_runner(SIGNATURE)
            # The first call prints a line about XNNPACK.
            runner(rgb=np.zeros((1, 1, 1, 3), np.float32))
    except (ValueError, RuntimeError) as error:
        got = str(error).partition("\n")[0]
        raise HeadstartError(path, "a LiteRT model of an export", got, "Export the run again") from error
    lock = threading.Lock()

    def compute(images: Array) -> Outputs:
        with lock:
            found = runner(rgb=images)
        distances = found[DISTANCE][:, 0] if DISTANCE in found else None
        return Outputs(found[PROBABILITY], distances)

    return compute
