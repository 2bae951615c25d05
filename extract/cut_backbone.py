"""The backbone that computes the features of a run: its cuts, its engine, and the preparation of pictures."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.streams import hide_native_stderr
from base.terminal import Console, format_count, import_quietly
from extract.backbone import build_backbone, cut_backbone, join_cuts
from extract.config import EngineName, ExtractConfig, Precision
from extract.engines import Engine, build_engine, build_quantized_engine, count_cores, plan_streams
from extract.views import Prepare, compile_views
from extract.weights.find import Weights, reopen_weights
from features.quantized import QuantizedModel
from features.schema import Features, FeatureStatus, round_features

if TYPE_CHECKING:
    import keras


class CutBackbone:
    """Backbone with one output for each cut, built on first use."""

    def __init__(self, config: ExtractConfig, weights: Weights, console: Console) -> None:
        """Create the backbone without loading it."""
        self._config, self.weights, self._console = config, weights, console
        self.streams = plan_streams(count_cores(config.threads))
        self.quantized: dict[str, QuantizedModel] = {}
        """Quantised model of each cut, complete before the engine is used; empty unless the precision is int8."""

    @cached_property
    def models(self) -> dict[str, keras.Model]:
        """Part of the backbone up to each cut, by cut."""
        config = self._config
        self.weights = reopen_weights(self.weights, self._console)
        import_quietly("keras")
        from extract.engines.tensorflow import configure_tensorflow

        if not configure_tensorflow(self.streams):
            self._console.debug("TensorFlow is already initialized in this process; its number of threads is unchanged")
        backbone = build_backbone(config.image_size, self.weights)
        return {cut: cut_backbone(backbone, cut, config.pool) for cut in config.cuts}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the features, in the order of the cuts."""
        return [tuple(model.output.shape[1:]) for model in self.models.values()]

    @cached_property
    def engine(self) -> Engine:
        """Engine for all cuts, already warmed up."""
        config = self._config
        if config.precision is Precision.INT8:
            engine: Engine = build_quantized_engine({cut: self.quantized[cut] for cut in config.cuts}, self.streams)
        else:
            model = join_cuts(list(self.models.values()))
            engine = build_engine(config.engine, config.precision, model, self.streams)
        # Warm up. The first batch takes about two seconds longer, because the engine chooses kernels and packs weights.
        outputs = engine.run(np.zeros((1, config.image_size, config.image_size, 3), np.float32))
        # TensorFlow prints a line about float16 on its first use.
        with hide_native_stderr():
            self.round(outputs[0])
        return engine

    @cached_property
    def prepare(self) -> Prepare:
        """Function that turns decoded pixels into views."""
        return compile_views(self._config.image_size, self._config.view_seed)

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the features of each cut; a batch larger than the batch size is run in parts.

        Raises:
            HeadstartError: the engine failed.
        """
        engine, size = self.engine, self._config.effective_batch_size
        try:
            parts = [engine.run(batch[start : start + size]) for start in range(0, len(batch), size)]
        except Exception as error:
            # TensorFlow, OpenVINO and drivers raise many kinds of errors; most are caused by insufficient memory.
            raise HeadstartError(
                f"--engine {self._config.engine}",
                f"enough memory for {min(size, len(batch))} pictures of {self._config.image_size} px",
                f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                "Give a smaller --batch-size, or fewer --threads",
            ) from error
        return parts[0] if len(parts) == 1 else [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def round(self, values: NDArray[np.float32]) -> tuple[Features, list[FeatureStatus]]:
        """Round features as `round_features` does, in a tenth of the time."""
        from extract.engines.tensorflow import cast_to_half

        return round_features(values, cast_to_half)

    def describe(self) -> str:
        """Describe engine, device and shapes of the features in one line."""
        from extract.engines.tensorflow import describe_devices

        config = self._config
        device = describe_devices() if config.engine is EngineName.TENSORFLOW else "CPU"
        shapes = [f"{cut} {' x '.join(map(str, shape))}" for cut, shape in zip(config.cuts, self.shapes, strict=True)]
        return (
            f"engine: {config.engine}, {config.precision}, {device}, {format_count(self.streams.num_cores, 'core')}; "
            f"features at {config.image_size} px: {', '.join(shapes)}"
        )
