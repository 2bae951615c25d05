"""Model of time, disk, memory and money for many pictures. Each function is a formula of its arguments alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

MEASURED_CORES = 2
"""Number of cores on which the rates were measured."""
HOUR_S = 3600.0
KB, GB = 1e3, 1e9


class Bottleneck(StrEnum):
    """Resource that is used up first."""

    BACKBONE = "backbone"
    DECODING = "decoding"
    READING = "network"
    REQUESTS = "read requests"
    CATALOG = "one writer of the catalog"
    REDUCTION = "reduction"
    START = "start of the machines"
    DISK = "size of the disk"
    MEMORY = "memory of the catalog"


REMEDIES = {
    Bottleneck.BACKBONE: "`--precision bfloat16` or `int8`, a GPU, more machines (`--part`, `--distribute ray`)",
    Bottleneck.DECODING: "smaller JPEGs; more cores for each GPU",
    Bottleneck.READING: "machines in the region of the pictures, more of them; smaller JPEGs",
    Bottleneck.REQUESTS: "pictures in tar shards, of which a request reads 4 MB; more prefixes",
    Bottleneck.CATALOG: "`--part`: each part has its own catalog; then one merge",
    Bottleneck.REDUCTION: "`--pool avg`; `python -m train_head --distribute ray`; training on a part of the pictures",
    Bottleneck.START: "fewer machines, for longer",
    Bottleneck.DISK: "`--pool avg`; a larger or mounted file system; one store for each part, pushed to a URL",
    Bottleneck.MEMORY: "more memory; several stores of at most 10 million pictures; training on a part of the pictures",
}
"""Remedy for each bottleneck, as Markdown."""


@dataclass(frozen=True)
class Machines:
    """Equal machines that extract the parts of one folder."""

    name: str
    count: int
    cores: int
    """Cores of each."""
    gpus: int
    """GPUs of each."""
    hourly_price: float
    """Price of each, in dollars per hour."""
    disk_gb: float
    """Disk or mounted file system of the store."""
    memory_gb: float
    """Memory of each."""
    lost_share: float = 0.0
    """Share of the work that is done twice, because machines are taken away."""
    is_shared: bool = True
    """Whether one writer adds the features of all machines to one catalog during the extraction."""


@dataclass(frozen=True)
class Rates:
    """Work and sizes for each picture, and limits of the services. Times are those of one core."""

    backbone_ms: float
    host_ms: float
    """Time beside the backbone: reading, hashing, decoding, resizing, compressing."""
    gpu_pictures_per_s: float
    """Pictures per second of one GPU, without decoding."""
    efficiency: float
    """Rate with twice the cores of one machine, as a share of twice the rate."""
    picture_kb: float
    feature_kb: float
    catalog_kb: float
    """Size in the catalog's file."""
    open_kb: float
    """Memory in an open store."""
    base_memory_gb: float
    """Memory of an extraction or a training without the catalog."""
    machine_mb_per_s: float
    """Network of one machine."""
    requests_per_s: float
    """Reads per second that the storage of the pictures answers."""
    pictures_per_request: float
    commits_per_s: float
    """Pictures per second that one writer adds to a catalog."""
    reduced_per_s: float
    """Rows per second and core of the reduction, with all its passes."""
    start_s: float
    """Time until a machine computes its first picture."""


@dataclass(frozen=True)
class Prices:
    """Prices in dollars."""

    storage_gb_month: float
    months: float
    """Time for which the features are stored."""
    thousand_requests: float
    egress_gb: float
    """Price of reading a gigabyte of pictures; 0 in the region where they are."""


@dataclass(frozen=True)
class Estimate:
    """Cost of the extraction and of one training for a number of pictures."""

    pictures: float
    extract_s: float
    train_s: float
    disk_gb: float
    memory_gb: float
    compute_price: float
    storage_price: float
    transfer_price: float
    slowest: Bottleneck
    """Slowest step of the extraction."""
    bottleneck: Bottleneck
    """What does not fit; otherwise the step that takes longest, of all."""

    @property
    def price(self) -> float:
        """Sum of all prices."""
        return self.compute_price + self.storage_price + self.transfer_price


def count_effective_cores(cores: int, efficiency: float) -> float:
    """Return the number of cores that would do the work without losses: each doubling above two loses a share."""
    return float(cores * efficiency ** max(0.0, math.log2(cores / MEASURED_CORES)))


def list_stage_rates(machines: Machines, rates: Rates) -> dict[Bottleneck, float]:
    """Return the pictures per second of each stage of the extraction, if it had its resources for itself.

    Without a GPU, backbone and decoding share the cores: both have the rate of the cores, and the longer one is listed.
    """
    cores = machines.count * count_effective_cores(machines.cores, rates.efficiency)
    if machines.gpus:
        found = {
            Bottleneck.BACKBONE: machines.count * machines.gpus * rates.gpu_pictures_per_s,
            Bottleneck.DECODING: 1000 * cores / rates.host_ms,
        }
    else:
        longer = Bottleneck.BACKBONE if rates.backbone_ms >= rates.host_ms else Bottleneck.DECODING
        found = {longer: 1000 * cores / (rates.backbone_ms + rates.host_ms)}
    found[Bottleneck.READING] = machines.count * rates.machine_mb_per_s * 1000 / rates.picture_kb
    found[Bottleneck.REQUESTS] = rates.requests_per_s * rates.pictures_per_request
    if machines.is_shared:
        found[Bottleneck.CATALOG] = rates.commits_per_s
    return found


def estimate_cost(pictures: float, machines: Machines, rates: Rates, prices: Prices) -> Estimate:
    """Estimate time, disk, memory and money.

    The stages overlap, so the slowest one decides the rate. The machines run until the last picture is stored; one of
    them then merges the catalogs of the parts, if there are several, and trains.
    """
    stages = list_stage_rates(machines, rates)
    slowest = min(stages, key=lambda stage: stages[stage])
    work_s = pictures * (1 + machines.lost_share) / stages[slowest]
    merge_s = 0.0 if machines.is_shared else pictures / rates.commits_per_s
    cores = count_effective_cores(machines.cores, rates.efficiency)
    train_s = pictures / (cores * rates.reduced_per_s)
    features_gb = pictures * (rates.feature_kb + rates.catalog_kb) * KB / GB
    # A training sorts the features on disk (docs/explanation/scale.md).
    disk_gb = features_gb + pictures * rates.feature_kb * KB / GB
    pictures_gb = pictures * rates.picture_kb * KB / GB
    memory_gb = max(rates.base_memory_gb, rates.base_memory_gb / 2 + pictures * rates.open_kb * KB / GB)
    machine_hours = (machines.count * (rates.start_s + work_s) + merge_s + train_s) / HOUR_S
    steps = {Bottleneck.START: rates.start_s, Bottleneck.CATALOG: merge_s} | {slowest: work_s}
    all_steps = steps | {Bottleneck.REDUCTION: train_s}
    if memory_gb > machines.memory_gb:
        bottleneck = Bottleneck.MEMORY
    elif disk_gb > machines.disk_gb:
        bottleneck = Bottleneck.DISK
    else:
        bottleneck = max(all_steps, key=lambda step: all_steps[step])
    return Estimate(
        pictures=pictures,
        extract_s=rates.start_s + work_s + merge_s,
        train_s=train_s,
        disk_gb=disk_gb,
        memory_gb=memory_gb,
        compute_price=machine_hours * machines.hourly_price,
        storage_price=features_gb * prices.storage_gb_month * prices.months,
        transfer_price=pictures / rates.pictures_per_request / 1000 * prices.thousand_requests
        + pictures_gb * prices.egress_gb,
        slowest=max(steps, key=lambda step: steps[step]),
        bottleneck=bottleneck,
    )
