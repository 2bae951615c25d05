"""TensorFlow SavedModel with the signature `serving_default`, the class names and the description in its assets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from base.errors import HeadstartError
from train_head.data.batches import Array
from train_head.export.config import Format
from train_head.export.description import DESCRIPTION_FILE
from train_head.export.formats import FORMATS, Source
from train_head.export.outputs import DISTANCE, PROBABILITY, Outputs
from train_head.runs.card import LABELS_FILE, format_labels

SIGNATURE = "serving_default"


def convert(source: Source, folder: Path) -> None:
    """Write the folder `saved_model`."""
    with TemporaryDirectory(dir=folder) as aside:
        files = Path(aside, LABELS_FILE), Path(aside, DESCRIPTION_FILE)
        files[0].write_bytes(format_labels(source.card.classes))
        files[1].write_text(source.encode_description())
        save_function(source.function, folder / FORMATS[Format.SAVED_MODEL].path, files)


def save_function(function: Any, folder: Path, assets: Sequence[Path] = ()) -> None:
    """Save a function of `Source` as a SavedModel that contains each weight once.

    Args:
        function: the function.
        folder: the folder to create.
        assets: files to copy into its folder `assets`.
    """
    import tensorflow as tf

    concrete = function.get_concrete_function()
    module = tf.Module()
    # With a Keras model as the attribute, the converter of LiteRT would not find the values of the variables.
    module.weights = list(concrete.graph.variables)
    module.files = [tf.saved_model.Asset(str(file)) for file in assets]
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: concrete})


def load(path: Path) -> Callable[[Array], Outputs]:
    """Load the folder `saved_model`; see `FormatModule.load`. The function is thread-safe."""
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        run = loaded.signatures[SIGNATURE]
    except Exception as error:
        # TensorFlow, protobuf and the object loader have different exceptions for damaged files.
        got = str(error).partition("\n")[0] or type(error).__name__
        raise HeadstartError(path, "a SavedModel of an export", got, "Export the run again") from error

    def compute(images: Array) -> Outputs:
        found = {name: values.numpy() for name, values in run(rgb=tf.constant(images, tf.float32)).items()}
        distances = found[DISTANCE][:, 0] if DISTANCE in found else None
        return Outputs(found[PROBABILITY], distances)

    # The signature does not keep the variables alive.
    compute.model = loaded  # type: ignore[attr-defined]
    return compute
