"""Quantise the cut backbone to int8 with NNCF, calibrated on pictures."""

from __future__ import annotations

import inspect
import io
import logging
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError, require_extra
from extract.engines.openvino import import_openvino, make_temporary_folder, read_backbone
from features.quantized import GRAPH_NAME, WEIGHTS_NAME, QuantizedModel

if TYPE_CHECKING:
    import keras


def quantize_backbone(
    model: keras.Model, cuts: Sequence[str], pictures: Iterable[NDArray[np.float32]], num_pictures: int
) -> QuantizedModel:
    """Quantise weights and activations; equal weights and pictures give equal bytes, on one kind of processor.

    Args:
        model: cut backbone with an output for each cut.
        cuts: names of the cuts, in the order of the outputs.
        pictures: views to calibrate on, (image_size, image_size, 3) float32 in [-1, 1]; iterated several times.
        num_pictures: number of pictures.

    Raises:
        HeadstartError: NNCF failed.
    """
    nncf = _import_nncf()
    from nncf.quantization.advanced_parameters import OverflowFix

    found = _convert(model, cuts)
    _rename(found)
    # Full range of the weights: the processors that `check_engine` accepts do not saturate.
    parameters = nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE)
    # The first convolution stays in float32: it takes little time, and causes a quarter of the error (decision 36).
    first = next(node.get_friendly_name() for node in found.get_ordered_ops() if node.get_type_name() == "Convolution")
    # So does a mean after the cut.
    ignored = nncf.IgnoredScope(names=[first], types=["ReduceMean"], validate=False)
    # Without its decorator, which reports each use to a server.
    quantize = inspect.unwrap(nncf.quantize)
    dataset = nncf.Dataset(pictures, lambda picture: picture[None])
    try:
        # NNCF prints progress bars.
        with redirect_stdout(io.StringIO()):
            found = quantize(
                found, dataset, subset_size=num_pictures, ignored_scope=ignored, advanced_parameters=parameters
            )
    except HeadstartError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        advice = "Give --precision bfloat16 or float32"
        raise HeadstartError("--precision int8", "a backbone that NNCF can quantise", got, advice) from error
    _rename(found)
    return _serialize(found)


def _import_nncf() -> Any:
    """Import and return NNCF, without its telemetry and messages."""
    require_extra("nncf", "--precision int8", "extract PRECISION=int8", "int8")
    import_openvino()
    kind = logging.getLoggerClass()
    try:
        import nncf
    finally:
        # NNCF sets a class of its own for the loggers of all libraries.
        logging.setLoggerClass(kind)
    nncf.set_log_level(logging.ERROR)
    return nncf


def _convert(model: keras.Model, cuts: Sequence[str]) -> Any:
    """Convert a cut backbone to an `openvino.Model` with outputs named after the cuts.

    Batch normalisation is folded into the convolutions. Otherwise, NNCF does not correct the shift of their means.
    """
    # The public `convert_model` does the same, and reports each use to a server.
    from openvino._offline_transformations import apply_moc_transformations

    found, names = read_backbone(model)
    apply_moc_transformations(found, cf=False)
    outputs = [found.output(name) for name in names]
    for node in found.get_ops():
        for place in node.outputs():
            place.get_tensor().set_names(set())
    for output, cut in zip(outputs, cuts, strict=True):
        output.get_tensor().set_names({cut})
    return found


def _rename(model: Any) -> None:
    """Number the nodes in topological order: their names have numbers that count all nodes made in this process."""
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")


def _serialize(model: Any) -> QuantizedModel:
    """Return the files of a model, without the information about its conversion, which has paths and versions."""
    from openvino import Model, save_model

    bare = Model(model.get_results(), model.get_parameters(), "backbone")
    with make_temporary_folder() as folder:
        try:
            save_model(bare, folder / GRAPH_NAME, compress_to_fp16=False)
        except RuntimeError as error:
            # Such as a full disk, for which OpenVINO has no error of its own.
            raise OSError(str(error)) from error
        return QuantizedModel((folder / GRAPH_NAME).read_bytes(), (folder / WEIGHTS_NAME).read_bytes())
