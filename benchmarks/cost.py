"""Time, disk, memory and money for a million to a billion pictures, from measured rates and stated assumptions.

Nothing is measured or looked up. Every number is an option, so that anyone can use their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

from typer import Option

from base.command_line import run_app
from base.errors import UsageError
from base.terminal import Console, format_bytes
from benchmarks.cost_model import REMEDIES, Estimate, Machines, Prices, Rates, estimate_cost
from extract.config import Precision
from features.options import Pool
from train_head.export.readme.template import Markdown, format_table

CORE_MS = {
    Precision.FLOAT32: (17.1, 1.95),
    Precision.BFLOAT16: (8.8, 2.12),
    Precision.INT8: (4.7, 1.86),
}
"""Core time of a picture in the backbone and beside it, in ms.

Source: docs/explanation/performance.md, mixed7 at 150 px.
"""
FEATURE_KB = {Pool.NONE: 16.0, Pool.AVG: 1.5}
"""Size of a stored feature. Source: docs/explanation/performance.md, mixed7 at 150 px."""
MACHINES = (
    Machines("2 cores", 1, 2, 0, 0.10, 500, 8),
    Machines("64 cores", 1, 64, 0, 3.00, 4_000, 256),
    Machines("one GPU, 8 cores", 1, 8, 1, 1.00, 1_000, 32),
    Machines("100 spot machines of 8 cores", 100, 8, 0, 0.12, 50_000, 32, lost_share=0.1, is_shared=False),
)
"""Machines of the tables. Prices are assumed: list prices of general-purpose machines of large clouds, rounded."""
MILLION = 1e6


@dataclass(frozen=True)
class CostConfig:
    """Options of the model."""

    pictures: Annotated[str, Option(help="Numbers of pictures, separated by commas.")] = "1e6,1e7,1e8,1e9"
    precision: Annotated[Precision, Option(help="Precision of the backbone on processors.")] = Precision.BFLOAT16
    pool: Annotated[Pool, Option(help="Pooling of the stored features.")] = Pool.NONE
    machines: Annotated[
        int, Option(min=0, help="Number of your own machines, instead of those of the tables; 0 for those.")
    ] = 0
    cores: Annotated[int, Option(min=1, help="Cores of each of your machines.")] = 8
    gpus: Annotated[int, Option(min=0, help="GPUs of each of your machines.")] = 0
    price: Annotated[float, Option(min=0, help="Dollars per hour for each of your machines.")] = 0.40
    disk_gb: Annotated[float, Option(min=1, help="Gigabytes of the disk of your store.")] = 1000
    memory_gb: Annotated[float, Option(min=1, help="Gigabytes of memory of each of your machines.")] = 32
    backbone_ms: Annotated[
        float, Option(min=0, help="Core time of a picture in the backbone, in ms; 0 for the measured time at 150 px.")
    ] = 0
    host_ms: Annotated[
        float, Option(min=0, help="Core time of a picture beside it; 0 for the measured time; 45 at 12 megapixels.")
    ] = 0
    gpu_rate: Annotated[
        float, Option(min=1, help="Pictures per second of a GPU; assumed: 5.5 TFLOP/s at 1.84 GFLOP a picture.")
    ] = 3000
    efficiency: Annotated[
        float, Option(min=0.5, max=1, help="Share that each doubling of a machine's cores above two gives; assumed.")
    ] = 0.93
    picture_kb: Annotated[float, Option(min=0.1, help="Size of a picture; assumed: a JPEG of 500x375 pixels.")] = 50
    network: Annotated[float, Option(min=1, help="Megabytes per second that a machine reads; assumed.")] = 1000
    requests: Annotated[
        float, Option(min=1, help="Reads per second of the storage; assumed: S3 documents 5,500 for each prefix.")
    ] = 5500
    per_request: Annotated[
        float,
        Option(
            min=1,
            help="Pictures per read: 1 for single files, about 100 for tar shards, of which a request reads 4 MB.",
        ),
    ] = 1
    commits: Annotated[
        float,
        Option(
            min=1, help="Pictures per second that one writer adds to a catalog, with digests of the shards; measured."
        ),
    ] = 25_000
    catalog_kb: Annotated[float, Option(min=0, help="Size of a picture in the file of the catalog; measured.")] = 0.16
    open_kb: Annotated[float, Option(min=0, help="Memory of a picture in an open store; measured.")] = 0.65
    base_memory_gb: Annotated[float, Option(min=0, help="Memory beside the catalog; measured.")] = 2.0
    reduced: Annotated[float, Option(min=1, help="Rows of mixed7 per second and core of the reduction; measured.")] = (
        325
    )
    start: Annotated[float, Option(min=0, help="Seconds until a machine computes; assumed, 10 s measured.")] = 120
    storage_price: Annotated[float, Option(min=0, help="Dollars per gigabyte and month; assumed.")] = 0.023
    months: Annotated[float, Option(min=0, help="Months for which the features are stored.")] = 1
    request_price: Annotated[float, Option(min=0, help="Dollars per 1,000 reads; assumed.")] = 0.0004
    egress_price: Annotated[
        float, Option(min=0, help="Dollars per gigabyte of pictures; assumed 0 within a region, often 0.09 elsewhere.")
    ] = 0.0


def report_cost(config: CostConfig, console: Console) -> Mapping[str, Any]:
    """Print the tables of docs/explanation/scale.md: cost by the number of pictures, and the assumptions."""
    estimates = list_estimates(config)
    if not console.options.json:
        print("\n\n".join(list_tables(config)))
    return {"estimates": [{"machines": name, **asdict(found), "price": found.price} for name, found in estimates]}


def list_tables(config: CostConfig) -> list[str]:
    """Return all tables as Markdown."""
    estimates = list_estimates(config)
    found = dict.fromkeys(step for _, each in estimates for step in (each.slowest, each.bottleneck))
    remedies: list[tuple[str, ...]] = [("bottleneck", "what removes it")]
    remedies += [(name, Markdown(REMEDIES[name])) for name in found]
    tables = [_list_million_rows(config), _list_size_rows(estimates), remedies, _list_machine_rows(config)]
    return [format_table(rows) for rows in (*tables, _list_assumptions(config))]


def list_estimates(config: CostConfig) -> list[tuple[str, Estimate]]:
    """Return the name of the machines and the estimate for each number of pictures and kind of machines."""
    return [
        (machines.name, estimate(config, pictures, machines, config.precision))
        for pictures in parse_numbers(config.pictures)
        for machines in choose_machines(config)
    ]


def estimate(config: CostConfig, pictures: float, machines: Machines, precision: Precision) -> Estimate:
    """Estimate the cost for a number of pictures with the numbers of the options."""
    # Only processors have other precisions than float32; with GPUs, the time beside the backbone decides.
    backbone_ms, host_ms = CORE_MS[Precision.FLOAT32 if machines.gpus else precision]
    rates = Rates(
        backbone_ms=config.backbone_ms or backbone_ms,
        host_ms=config.host_ms or host_ms,
        gpu_pictures_per_s=config.gpu_rate,
        efficiency=config.efficiency,
        picture_kb=config.picture_kb,
        feature_kb=FEATURE_KB[config.pool],
        catalog_kb=config.catalog_kb,
        open_kb=config.open_kb,
        base_memory_gb=config.base_memory_gb,
        machine_mb_per_s=config.network,
        requests_per_s=config.requests,
        pictures_per_request=config.per_request,
        commits_per_s=config.commits,
        reduced_per_s=config.reduced * FEATURE_KB[Pool.NONE] / FEATURE_KB[config.pool],
        start_s=config.start,
    )
    prices = Prices(config.storage_price, config.months, config.request_price, config.egress_price)
    return estimate_cost(pictures, machines, rates, prices)


def choose_machines(config: CostConfig) -> Sequence[Machines]:
    """Return the machines of the options, or those of the tables."""
    if not config.machines:
        return MACHINES
    name, is_shared = f"{config.machines} x {config.cores} cores", config.machines == 1
    size = (config.price, config.disk_gb, config.memory_gb)
    return [Machines(name, config.machines, config.cores, config.gpus, *size, is_shared=is_shared)]


def parse_numbers(text: str) -> list[float]:
    """Parse numbers of pictures; raise UsageError for any other text."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= 1e12 for number in numbers):
        raise UsageError("--pictures", "numbers from 1 to 1e12, such as 1e6,1e7", text, "Correct the numbers")
    return numbers


def _list_million_rows(config: CostConfig) -> list[tuple[str, ...]]:
    """Return the table of time and dollars per million pictures, by machines and precision."""
    rows: list[tuple[str, ...]] = [("a million pictures: time / dollars", *CORE_MS)]
    for machines in choose_machines(config):
        precisions = [Precision.FLOAT32] if machines.gpus else list(CORE_MS)
        found = [estimate(config, MILLION, machines, precision) for precision in precisions]
        cells = [f"{format_duration(each.extract_s)} / {format_dollars(each.price)}" for each in found]
        rows.append((machines.name, *cells, *[""] * (len(CORE_MS) - len(cells))))
    return rows


def _list_size_rows(estimates: Iterable[tuple[str, Estimate]]) -> list[tuple[str, ...]]:
    """Return the table of all costs, by the number of pictures and machines."""
    titles = ("extraction", "its slowest step", "reduction", "disk", "memory", "dollars", "first bottleneck")
    rows: list[tuple[str, ...]] = [("pictures", "machines", *titles)]
    for name, found in estimates:
        times = (format_duration(found.extract_s), found.slowest, format_duration(found.train_s))
        sizes = (format_bytes(found.disk_gb * 1e9), format_bytes(found.memory_gb * 1e9))
        rows.append((f"{found.pictures:,.0f}", name, *times, *sizes, format_dollars(found.price), found.bottleneck))
    return rows


def _list_machine_rows(config: CostConfig) -> list[tuple[str, ...]]:
    titles = ("number", "cores", "GPUs", "dollars an hour, each", "disk", "memory", "work done twice")
    rows: list[tuple[str, ...]] = [("machines", *titles)]
    for each in choose_machines(config):
        sizes = (format_bytes(each.disk_gb * 1e9), format_bytes(each.memory_gb * 1e9))
        counts = (f"{each.count}", f"{each.cores}", f"{each.gpus}", f"{each.hourly_price:.2f}")
        rows.append((each.name, *counts, *sizes, f"{each.lost_share:.0%}"))
    return rows


def _list_assumptions(config: CostConfig) -> list[tuple[str, ...]]:
    """Return the table of all options with their values, as the help describes them."""
    hints = get_type_hints(CostConfig, include_extras=True)
    rows: list[tuple[str, ...]] = [("option", "value", "meaning")]
    for option in fields(config):
        if option.name in _OWN and not config.machines:
            continue
        value = getattr(config, option.name)
        shown = f"{value:,g}" if isinstance(value, int | float) else str(value)
        name = Markdown(f"`--{option.name.replace('_', '-')}`")
        rows.append((name, shown, get_args(hints[option.name])[1].help))
    return rows


_OWN = frozenset(["machines", "cores", "gpus", "price", "disk_gb", "memory_gb"])
"""Options of own machines."""


def format_duration(seconds: float) -> str:
    """Format a duration in the unit that gives a small number, such as `37 min`, `2.6 h`, `12 days` or `3.2 years`."""
    hours = seconds / 3600
    if hours < 1:
        return f"{max(1, round(seconds / 60))} min"
    if hours < 48:
        return f"{hours:.1f} h"
    days = hours / 24
    return f"{days:,.0f} days" if days < 730 else f"{days / 365:.1f} years"


def format_dollars(dollars: float) -> str:
    """Format an amount, without a sign that Markdown takes for mathematics."""
    return f"{dollars:.2f}" if dollars < 10 else f"{dollars:,.0f}"


if __name__ == "__main__":
    run_app(report_cost, CostConfig, "python -m benchmarks.cost")
