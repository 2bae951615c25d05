"""Convert an exported Keras model to another format, in a child process of its own.

A converter that crashes, or that is killed, ends only the child process. Libraries of different formats are never
loaded into the same process.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np

from base.errors import HeadstartError
from base.terminal import Console
from train_head.export.config import Dtype, Format
from train_head.export.description import DESCRIPTION_FILE, read_description
from train_head.export.formats import FORMATS, Source, import_format
from train_head.export.gate import FormatCheck, Reference
from train_head.export.load import load_export
from train_head.export.outputs import DISTANCE, PROBABILITY
from train_head.export.pictures import PictureGoneError, Pictures
from train_head.runs.card import MODEL_FILE

_PICTURES_FILE = "pictures.npy"
_MIN_FREE_BYTES = 2**20
"""Free space below which a converter that failed is assumed to have filled the disk."""
_NUM_PICTURES = 16
"""Number of pictures on which the rounding to int8 is corrected; more hardly change the means of the activations."""


class ConversionError(HeadstartError):
    """Model that could not be converted to a format."""


def convert_aside(each: Format, source: Path, folder: Path, dtype: Dtype) -> None:
    """Convert a model in a child process.

    Args:
        each: the format.
        source: folder with model.keras and model.json.
        folder: existing folder for the files of the format.
        dtype: number format of the weights.

    Raises:
        ConversionError: the converter failed or was killed.
        OSError: the disk is full.
    """
    arguments = [each.value, str(source), str(folder), dtype.value]
    # -P keeps the current folder off the child's search path, which is that of this process.
    command = [sys.executable, "-P", "-m", "train_head.export.convert", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    with (
        TemporaryFile() as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment) as child,
    ):
        try:
            status = child.wait()
        finally:
            child.kill()
        if status:
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
            # This is no error of the format, and the earlier export is kept. Not every library gives the reason.
            if os.strerror(errno.ENOSPC) in text or shutil.disk_usage(folder).free < _MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            lines = text.splitlines() or ["no message"]
            reason = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            expected, advice = "a converter that succeeds", "Leave this format out, or report the error"
            raise ConversionError(f"--formats {each}", expected, f"{reason}: {lines[-1][:500]}", advice)


def convert_formats(
    formats: Sequence[Format], dtype: Dtype, folder: Path, pictures: Pictures, console: Console
) -> tuple[list[FormatCheck], dict[Format, FormatCheck | HeadstartError]]:
    """Convert a staged export to formats, compare each with the Keras model, and keep the files of those that agree.

    Args:
        formats: the formats, without Keras.
        dtype: number format of the weights.
        folder: staging folder with model.keras and model.json; receives the files.
        pictures: the loaded validation pictures.
        console: receives the progress.

    Returns:
        The checks of the formats that agree; and, of each other format, its check or its error.

    Raises:
        PictureGoneError: a picture was removed or changed in the meantime.
        OSError: the disk is full.
    """
    keras_format = import_format(Format.KERAS)
    card = read_description(folder / DESCRIPTION_FILE).card
    reference = Reference(keras_format.load(folder / MODEL_FILE), pictures, card)
    checks: list[FormatCheck] = []
    failed: dict[Format, FormatCheck | HeadstartError] = {}
    for each in formats:
        with TemporaryDirectory(dir=folder, prefix=".converting-") as aside:
            try:
                console.info(f"converting to {each}")
                if dtype is Dtype.INT8:
                    _, resized = next(pictures.read_batches())
                    np.save(Path(aside, _PICTURES_FILE), resized[:_NUM_PICTURES])
                convert_aside(each, folder, Path(aside), dtype)
                check = _check_format(each, Path(aside), dtype, reference, console)
            except PictureGoneError:
                raise
            except HeadstartError as error:
                failed[each] = error
                continue
            if not check.ok:
                failed[each] = check
                continue
            checks.append(check)
            for name in FORMATS[each].names:
                Path(aside, name).rename(folder / name)
    return checks, failed


def _check_format(each: Format, folder: Path, dtype: Dtype, reference: Reference, console: Console) -> FormatCheck:
    """Load a converted model with its runtime, and compare it with the Keras model."""
    try:
        run = import_format(each).load(folder / FORMATS[each].path)
        return reference.compare(run, each, FORMATS[each].choose_dtype(dtype), console)
    except (HeadstartError, OSError, MemoryError):
        raise
    except Exception as error:
        # Each runtime has exceptions of its own.
        expected, advice = "a converted model that its runtime can run", "Leave this format out, or report the error"
        got = f"{type(error).__name__}: {str(error)[:500]}"
        raise ConversionError(f"--formats {each}", expected, got, advice) from error


def build_function(model: Any) -> Any:
    """Build the function that is converted.

    Args:
        model: a model of `load_export`.

    Returns:
        A `tf.function` from `rgb`, (n, height, width, 3) float32 in 0-255, to a dictionary of `probability`,
        (n, classes), and, for a model with a detector of outliers, `distance`, (n, 1).
    """
    import tensorflow as tf

    def compute(rgb: Any) -> dict[str, Any]:
        found = model(rgb, training=False)
        outputs = dict(found) if isinstance(found, dict) else {PROBABILITY: found}
        probability = outputs[PROBABILITY]
        if probability.shape[-1] == 1:
            outputs[PROBABILITY] = tf.concat([1 - probability, probability], axis=1)
        return {name: tf.identity(outputs[name], name) for name in (PROBABILITY, DISTANCE) if name in outputs}

    return tf.function(compute, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32, name="rgb")])


def _exit_with_parent() -> None:
    """End this process when the parent process ends, which closes the pipe."""
    # Not sys.stdin: a thread that holds its lock would abort Python's shutdown.
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Convert a model: the program of the child process."""
    each, source, folder, dtype = Format(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Dtype(sys.argv[4])
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _, model = load_export(source / MODEL_FILE)
    description = read_description(source / DESCRIPTION_FILE)
    chosen = FORMATS[each].choose_dtype(dtype)
    path = folder / _PICTURES_FILE
    pictures = np.load(path) if path.exists() else None
    function = build_function(model)
    import_format(each).convert(Source(function, description, chosen, model, pictures), folder)


if __name__ == "__main__":
    main()
