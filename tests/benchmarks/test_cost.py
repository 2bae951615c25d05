"""Model of cost: rates, limits and the tables of docs/explanation/scale.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from base.errors import UsageError
from base.terminal import Console, ConsoleOptions
from benchmarks.cost import MACHINES, CostConfig, choose_machines, estimate, list_tables, parse_numbers, report_cost
from benchmarks.cost_model import REMEDIES, Bottleneck, Estimate, Machines, count_effective_cores
from extract.config import Precision
from tests.errors import raises

ROOT = Path(__file__).parents[2]
LAPTOP, SERVER, GPU, SPOT = MACHINES
FLOAT32, INT8 = Precision.FLOAT32, Precision.INT8
pytestmark = pytest.mark.unit


def compute(
    pictures: float = 1e6, machines: Machines = LAPTOP, precision: Precision = FLOAT32, **options: object
) -> Estimate:
    return estimate(replace(CostConfig(), **options), pictures, machines, precision)  # type: ignore[arg-type]


def make_cluster(count: int, **changes: object) -> Machines:
    return replace(SPOT, count=count, memory_gb=1e9, disk_gb=1e9, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "measured"), [(FLOAT32, 102.8), (Precision.BFLOAT16, 177.2), (INT8, 299.9)])
def test_extraction_on_two_cores_has_the_measured_rate(precision: Precision, measured: float) -> None:
    found = compute(1e6, precision=precision, start=0)
    assert 1e6 / found.extract_s == pytest.approx(measured, rel=0.05)


def test_twice_the_machines_take_half_of_the_time_until_the_storage_is_the_bottleneck() -> None:
    found = [compute(1e7, make_cluster(count), start=0, commits=1e12) for count in (1, 2, 4, 8, 16, 32, 64)]
    for one, two in zip(found, found[1:], strict=False):
        if two.slowest is Bottleneck.BACKBONE:
            assert two.extract_s == pytest.approx(one.extract_s / 2)
            assert two.compute_price == pytest.approx(one.compute_price)
        else:
            assert one.extract_s / 2 < two.extract_s <= one.extract_s
    assert (found[0].slowest, found[-1].slowest) == (Bottleneck.BACKBONE, Bottleneck.REQUESTS)
    assert found[-1].extract_s == found[-2].extract_s


@pytest.mark.parametrize("machines", MACHINES)
@pytest.mark.parametrize(
    ("name", "worse"),
    [
        *(("gpu_rate", 0.5), ("efficiency", 0.7), ("network", 0.01), ("requests", 0.01), ("commits", 0.01)),
        *(("reduced", 0.1), ("start", 10), ("host_ms", 30), ("backbone_ms", 30), ("picture_kb", 100)),
        *(("storage_price", 2), ("request_price", 2), ("months", 2), ("catalog_kb", 3), ("open_kb", 3)),
    ],
)
def test_a_worse_number_makes_nothing_faster_smaller_or_cheaper(machines: Machines, name: str, worse: float) -> None:
    default = getattr(CostConfig(), name) or 10
    before, after = (compute(1e8, machines, FLOAT32, **{name: default * factor}) for factor in (1, worse))
    for field in ("extract_s", "train_s", "disk_gb", "memory_gb", "price"):
        assert getattr(after, field) >= getattr(before, field)


def test_time_disk_and_money_grow_in_proportion_to_the_pictures() -> None:
    one, ten = (compute(pictures, start=0) for pictures in (1e6, 1e7))
    for field in ("extract_s", "train_s", "disk_gb", "price"):
        assert getattr(ten, field) == pytest.approx(10 * getattr(one, field))


@pytest.mark.parametrize(
    ("expected", "pictures", "machines", "options"),
    [
        (Bottleneck.BACKBONE, 1e6, LAPTOP, {}),
        (Bottleneck.DECODING, 1e6, LAPTOP, {"host_ms": 45}),
        (Bottleneck.DECODING, 1e6, GPU, {"gpu_rate": 1e5, "reduced": 1e5}),
        (Bottleneck.READING, 1e6, LAPTOP, {"network": 1}),
        (Bottleneck.REQUESTS, 1e6, make_cluster(100), {"reduced": 1e5}),
        (
            Bottleneck.CATALOG,
            1e7,
            make_cluster(100, is_shared=True),
            {"per_request": 1000, "reduced": 1e6, "commits": 1e4},
        ),
        (Bottleneck.CATALOG, 1e7, make_cluster(100), {"per_request": 1000, "reduced": 1e6, "commits": 1e4}),
        (Bottleneck.REDUCTION, 1e7, make_cluster(100), {}),
        (Bottleneck.START, 1e3, make_cluster(100), {}),
        (Bottleneck.DISK, 1e8, replace(LAPTOP, memory_gb=1e6), {}),
        (Bottleneck.MEMORY, 1e9, SERVER, {}),
    ],
)
def test_bottleneck_is_what_does_not_fit_or_takes_longest(
    expected: Bottleneck, pictures: float, machines: Machines, options: dict[str, float]
) -> None:
    assert compute(pictures, machines, FLOAT32, **options).bottleneck is expected


def test_every_bottleneck_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Bottleneck)


def test_read_requests_of_tar_shards_are_no_bottleneck() -> None:
    files, shards = (compute(1e8, SPOT, INT8, per_request=number) for number in (1, 1000))
    assert files.slowest is Bottleneck.REQUESTS
    assert shards.extract_s < files.extract_s
    assert shards.transfer_price == pytest.approx(files.transfer_price / 1000)


def test_gpu_is_limited_by_its_own_cores() -> None:
    slow, fast = (compute(1e8, GPU, gpu_rate=rate) for rate in (1e5, 1e6))
    assert slow.extract_s == fast.extract_s


def test_effective_cores_are_those_measured_for_two() -> None:
    assert count_effective_cores(2, 0.5) == 2
    assert count_effective_cores(8, 0.5) == 2
    assert 32 < count_effective_cores(64, 0.93) < 64


def test_own_machines_replace_those_of_the_tables() -> None:
    (own,) = choose_machines(CostConfig(machines=3, cores=16, price=0.7))
    assert (own.count, own.cores, own.hourly_price, own.is_shared) == (3, 16, 0.7, False)


@pytest.mark.parametrize("text", ["", "many", "1e6,", "0", "nan", "1e13"])
def test_numbers_of_pictures_that_are_invalid_fail(text: str) -> None:
    with raises(UsageError, where="--pictures", got=text):
        parse_numbers(text)


def test_page_has_the_tables_that_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    report_cost(CostConfig(), Console())
    printed, page = capsys.readouterr().out, (ROOT / "docs" / "explanation" / "scale.md").read_text()
    assert printed.strip() == "\n\n".join(list_tables(CostConfig()))
    for table in list_tables(CostConfig()):
        assert table in page


def test_result_has_each_machine_for_each_number_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    found = report_cost(CostConfig(pictures="1e6,1e9"), Console(ConsoleOptions(json=True)))
    assert len(found["estimates"]) == 2 * len(MACHINES)
    assert capsys.readouterr().out == ""
