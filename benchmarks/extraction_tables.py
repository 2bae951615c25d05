"""Tables of the benchmark of extraction, from its measurements. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.pictures import STEPS
from benchmarks.worker import KERAS, Rate, Source

ENGINES = {
    KERAS: "Keras `predict_on_batch`",
    "tensorflow-float32": "TensorFlow engine",
    "openvino-float32": "OpenVINO engine",
    "tensorflow-bfloat16": "TensorFlow engine, `--precision bfloat16`",
    "openvino-bfloat16": "OpenVINO engine, `--precision bfloat16`",
    "openvino-int8": "OpenVINO engine, `--precision int8`",
}
"""Kinds of workers and their engines, in the order of the tables."""
COMMANDS = {
    KERAS: "`image_dataset_from_directory` + `predict`, nothing stored",
    "tensorflow-float32": "`python -m extract`",
    "openvino-float32": "`--engine openvino`",
    "tensorflow-bfloat16": "`--precision bfloat16`",
    "openvino-bfloat16": "`--precision bfloat16 --engine openvino`",
    "openvino-int8": "`--precision int8`",
}
Row = tuple[str, ...]


@dataclass
class Rounds:
    """Measurements, one of each kind for each round."""

    rates: dict[str, dict[Source, list[Rate]]] = field(default_factory=dict)
    """Rates of each kind of worker, by the source of the pictures."""
    matrix: list[float] = field(default_factory=list)
    """Pictures per second if all multiplications were one large float32 matrix product."""
    decoding: list[float] = field(default_factory=list)
    """Pictures of 12 megapixels per second that are decoded only, on all cores."""
    steps: dict[Source, list[Mapping[str, float]]] = field(default_factory=dict)
    """Milliseconds of a core for each of `STEPS`."""

    @property
    def kinds(self) -> list[str]:
        """Measured kinds of workers, in the order of the tables."""
        return [kind for kind in ENGINES if kind in self.rates]

    @property
    def reference(self) -> str:
        """First measured kind that extracts; empty if there is none."""
        return next((kind for kind in self.kinds if kind != KERAS), "")

    def list_speeds(self, kind: str, source: Source) -> list[float]:
        """Return the pictures per second of each round."""
        return [rate.per_second for rate in self.rates[kind][source]]

    def find_core_ms(self, kind: str, source: Source) -> float:
        """Return the median time of a core for one picture, in milliseconds."""
        return median(rate.core_ms for rate in self.rates[kind][source])


def compare(measured: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median of the ratios of each round."""
    return median(one / other for one, other in zip(measured, reference, strict=True))


def list_tables(rounds: Rounds) -> Iterator[list[Row]]:
    """Yield the rows of each table; the first one is its header."""
    yield list(list_engine_rows(rounds))
    yield list(list_file_rows(rounds))
    if rounds.decoding:
        yield list(list_large_rows(rounds))
    if rounds.steps:
        yield list(list_step_rows(rounds))


def list_engine_rows(rounds: Rounds) -> Iterator[Row]:
    """Yield the rows for batches in memory."""
    yield "", "pictures/s", "", "core-ms a picture"
    reference = rounds.list_speeds(rounds.reference or rounds.kinds[0], Source.READY)
    title = "one large float32 matrix product with the same number of multiplications"
    yield title, _format_rate(rounds.matrix), _format_ratio(rounds.matrix, reference), ""
    for kind in rounds.kinds:
        speeds = rounds.list_speeds(kind, Source.READY)
        core_ms = f"{rounds.find_core_ms(kind, Source.READY):.2f}"
        yield ENGINES[kind], _format_rate(speeds), _format_ratio(speeds, reference), core_ms


def list_file_rows(rounds: Rounds) -> Iterator[Row]:
    """Yield the rows from files to the store."""
    yield "", "pictures/s", "", "share of the engine's rate", "core-ms a picture", "beside the engine"
    for kind in rounds.kinds:
        speeds, engine = (rounds.list_speeds(kind, source) for source in (Source.FILES, Source.READY))
        naive = rounds.list_speeds(KERAS, Source.FILES) if KERAS in rounds.rates else []
        core_ms = rounds.find_core_ms(kind, Source.FILES)
        yield (
            COMMANDS[kind],
            _format_rate(speeds),
            _format_ratio(speeds, naive) if naive else "",
            "" if kind == KERAS else f"{compare(speeds, engine):.2f}",
            f"{core_ms:.2f}",
            "" if kind == KERAS else f"{core_ms - rounds.find_core_ms(kind, Source.READY):.2f}",
        )


def list_large_rows(rounds: Rounds) -> Iterator[Row]:
    """Yield the rows for pictures of 12 megapixels; the bound is the rate of decoding and the backbone alone."""
    yield "", "pictures/s", "share of decoding alone", "bound", "share of the bound"
    yield "decoding alone", _format_rate(rounds.decoding), "", "", ""
    for kind in rounds.kinds:
        if kind == KERAS:
            continue
        speeds, engine = (rounds.list_speeds(kind, source) for source in (Source.LARGE, Source.READY))
        bounds = [find_bound(*both) for both in zip(rounds.decoding, engine, strict=True)]
        share = f"{compare(speeds, rounds.decoding):.2f}"
        yield COMMANDS[kind], _format_rate(speeds), share, _format_rate(bounds), f"{compare(speeds, bounds):.2f}"


def find_bound(*rates: float) -> float:
    """Return the rate of steps that all need all cores, from the rate of each step."""
    return 1 / sum(1 / rate for rate in rates)


def list_step_rows(rounds: Rounds) -> Iterator[Row]:
    """Yield the rows for the steps of one picture: milliseconds of a core, of the first kind that extracts."""
    sources = list(rounds.steps)
    kind, titles = rounds.reference, {Source.FILES: "pictures as given", Source.LARGE: "12 megapixels"}
    yield "core-ms a picture", *(titles[source] for source in sources)
    engine = rounds.find_core_ms(kind, Source.READY)
    yield ENGINES[kind], *(f"{engine:.2f}" for _ in sources)
    for step in STEPS:
        yield step, *(f"{median(found[step] for found in rounds.steps[source]):.2f}" for source in sources)
    totals = [rounds.find_core_ms(kind, source) for source in sources]
    known = [median(sum(found.values()) for found in rounds.steps[source]) for source in sources]
    yield "the rest", *(f"{total - engine - some:.2f}" for total, some in zip(totals, known, strict=True))
    yield COMMANDS[kind], *(f"{total:.2f}" for total in totals)


def _format_rate(speeds: Sequence[float]) -> str:
    return f"{median(speeds):.1f}"


def _format_ratio(speeds: Sequence[float], reference: Sequence[float]) -> str:
    return f"{compare(speeds, reference):.2f} x"
