"""Engines and precisions that a computer supports, and the distribution of its cores."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from base.errors import UsageError
from extract.config import EngineName, Precision
from extract.engines import Streams, count_cores, plan_streams
from extract.engines.choose import Computer, EngineChoice, check_engine, choose_engine, default_engine
from extract.engines.processor import Instructions, Processor, find_processor, has_gpu, parse_cpuinfo
from features.schema import Fingerprint
from tests.errors import raises
from tests.features.stores import make_fingerprint

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("num_cores", "num_streams", "num_threads"),
    [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1), (16, 8, 8), (64, 8, 56)],
)
def test_plan_streams_uses_every_core(num_cores: int, num_streams: int, num_threads: int) -> None:
    assert plan_streams(num_cores) == Streams(num_cores, num_streams, num_threads)


def test_count_cores_returns_the_option_or_the_cores_of_the_process() -> None:
    assert count_cores(3) == 3
    assert count_cores(0) == len(os.sched_getaffinity(0))


# The processor.

INTEL_AMX = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu sse2 avx2 avx512f avx_vnni avx512_bf16 avx512_vnni amx_bf16 avx512_fp16 amx_tile amx_int8

processor\t: 1
model name\t: another
"""
ZEN_4 = "processor\t: 0\nmodel name\t: AMD  EPYC\nflags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni rdpid\n"
OLD_XEON = "processor\t: 0\nmodel name\t: Xeon E5 v4, no bf16\nflags\t\t: fpu sse4_2 avx avx2\n"
GRAVITON_3 = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd asimddp sve bf16 i8mm\nCPU part\t: 0xd40\n"
RASPBERRY = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes\n\nHardware\t: BCM2835\n"


@pytest.mark.parametrize(
    ("cpuinfo", "line"),
    [
        (
            INTEL_AMX,
            "Intel(R) Xeon(R) Platinum 8488C, 2 cores, AVX-512, VNNI, AVX-512 BF16, AMX BF16, AMX INT8",
        ),
        (ZEN_4, "AMD EPYC, 2 cores, AVX-512, VNNI, AVX-512 BF16"),
        (OLD_XEON, "Xeon E5 v4, no bf16, 2 cores, AVX2"),
        (GRAVITON_3, "aarch64, 2 cores, BF16, I8MM, DotProd"),
        (RASPBERRY, "aarch64, 2 cores"),
        ("", "aarch64, 2 cores"),
    ],
)
def test_parse_cpuinfo_finds_name_and_instructions(cpuinfo: str, line: str) -> None:
    assert parse_cpuinfo(iter(cpuinfo.splitlines()), "aarch64").describe(2) == line


def test_find_processor_without_cpuinfo_knows_the_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert find_processor(tmp_path / "cpuinfo") == Processor("arm")


@pytest.mark.parametrize(
    ("devices", "drivers", "visible", "expected"),
    [
        (["nvidia0", "nvidiactl"], [], None, True),
        (["nvidia0"], [], "0", True),
        (["nvidia0"], [], "-1", False),
        (["nvidiactl", "null"], [], None, False),
        (["dxg"], ["libcuda.so.1"], None, True),
        (["dxg"], [], None, False),
    ],
)
def test_has_gpu_reads_device_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: list[str],
    drivers: list[str],
    visible: str,
    expected: bool,
) -> None:
    for folder, names in ((tmp_path / "dev", devices), (tmp_path / "lib", drivers)):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert has_gpu(tmp_path / "dev", tmp_path / "lib") is expected


# The choice.

AUTO, TENSORFLOW, OPENVINO = EngineName
_, FLOAT32, BFLOAT16, INT8 = Precision
NEW = Computer(Processor("new", frozenset({Instructions.VNNI, Instructions.AVX512_BF16})))
OLD = Computer(Processor("old", frozenset({Instructions.AVX2})))


def store(engine: str, precision: str) -> Fingerprint:
    return make_fingerprint(engine=engine, precision=precision)


@pytest.mark.parametrize(
    ("engine", "precision", "stored", "computer", "expected"),
    [
        (AUTO, FLOAT32, [], NEW, (TENSORFLOW, FLOAT32, False)),
        (AUTO, BFLOAT16, [], NEW, (TENSORFLOW, BFLOAT16, False)),
        (AUTO, INT8, [], NEW, (OPENVINO, INT8, False)),
        (OPENVINO, FLOAT32, [], NEW, (OPENVINO, FLOAT32, False)),
        (AUTO, Precision.AUTO, [], NEW, (TENSORFLOW, BFLOAT16, True)),
        (OPENVINO, Precision.AUTO, [], NEW, (OPENVINO, BFLOAT16, True)),
        (AUTO, Precision.AUTO, [], OLD, (TENSORFLOW, FLOAT32, True)),
        (AUTO, Precision.AUTO, [], Computer(NEW.processor, has_gpu=True), (TENSORFLOW, FLOAT32, True)),
        (OPENVINO, Precision.AUTO, [], Computer(NEW.processor, has_gpu=True), (OPENVINO, BFLOAT16, True)),
        (AUTO, Precision.AUTO, [], Computer(NEW.processor, has_onednn=False), (TENSORFLOW, FLOAT32, True)),
        # A store decides, unless an option excludes its values.
        (AUTO, Precision.AUTO, [store("tensorflow", "float32")], NEW, (TENSORFLOW, FLOAT32, True)),
        (AUTO, Precision.AUTO, [store("openvino", "int8")], NEW, (OPENVINO, INT8, True)),
        (AUTO, Precision.AUTO, [store("openvino", "bfloat16")], OLD, (OPENVINO, BFLOAT16, True)),
        (AUTO, FLOAT32, [store("openvino", "float32")], NEW, (OPENVINO, FLOAT32, True)),
        (AUTO, FLOAT32, [store("tensorflow", "float32")], NEW, (TENSORFLOW, FLOAT32, False)),
        (AUTO, FLOAT32, [store("openvino", "int8")], NEW, (TENSORFLOW, FLOAT32, False)),
        (AUTO, INT8, [store("tensorflow", "float32")], NEW, (OPENVINO, INT8, False)),
        (TENSORFLOW, Precision.AUTO, [store("openvino", "int8")], NEW, (TENSORFLOW, BFLOAT16, True)),
        (AUTO, Precision.AUTO, [store("future", "float8")], NEW, (TENSORFLOW, BFLOAT16, True)),
    ],
)
def test_choose_engine_follows_options_then_stores_then_the_computer(
    engine: EngineName,
    precision: Precision,
    stored: list[Fingerprint],
    computer: Computer,
    expected: tuple[EngineName, Precision, bool],
) -> None:
    choice = choose_engine(engine, precision, stored, computer)
    assert (choice.engine, choice.precision, choice.message != "") == expected


def test_choose_engine_message_names_instructions_or_the_obstacle() -> None:
    def explain(computer: Computer) -> str:
        return choose_engine(AUTO, Precision.AUTO, [], computer).message

    assert "AVX-512 BF16" in explain(NEW)
    assert "GPU" in explain(Computer(NEW.processor, has_gpu=True))
    assert "oneDNN" in explain(Computer(NEW.processor, has_onednn=False))
    assert "bfloat16" in explain(OLD)


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16, INT8])
def test_choose_engine_default_is_that_of_a_new_store(precision: Precision) -> None:
    assert default_engine(precision) is choose_engine(AUTO, precision, [], NEW).engine


# Choices that the computer does not support.


@pytest.mark.parametrize(
    ("choice", "missing", "where"),
    [
        (EngineChoice(OPENVINO, FLOAT32), "openvino", "--engine openvino"),
        (EngineChoice(OPENVINO, INT8), "openvino", "--precision int8"),
        (EngineChoice(OPENVINO, INT8), "nncf", "--precision int8"),
    ],
)
def test_check_engine_that_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch, choice: EngineChoice, missing: str, where: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    check_engine(EngineChoice(TENSORFLOW, FLOAT32), OLD)
    with raises(UsageError, where=where):
        check_engine(choice, NEW)


def test_check_engine_of_a_store_in_int8_needs_no_quantisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    check_engine(EngineChoice(OPENVINO, INT8, is_stored=True), NEW)


def test_check_engine_int8_with_tensorflow_is_refused() -> None:
    with raises(UsageError, where="--precision int8", got="--engine tensorflow"):
        check_engine(EngineChoice(TENSORFLOW, INT8), NEW)


def test_check_engine_bfloat16_that_tensorflow_would_ignore_is_refused() -> None:
    computer = Computer(NEW.processor, has_onednn=False)
    check_engine(EngineChoice(OPENVINO, BFLOAT16), computer)
    check_engine(EngineChoice(TENSORFLOW, FLOAT32), computer)
    with raises(UsageError, where="--precision bfloat16", got="TF_ENABLE_ONEDNN_OPTS=0"):
        check_engine(EngineChoice(TENSORFLOW, BFLOAT16), computer)


@pytest.mark.parametrize(("engine", "precision"), [(TENSORFLOW, BFLOAT16), (OPENVINO, BFLOAT16), (OPENVINO, INT8)])
def test_check_engine_precision_without_support_by_the_processor_is_refused(
    engine: EngineName, precision: Precision
) -> None:
    check_engine(EngineChoice(engine, precision), NEW)
    check_engine(EngineChoice(engine, FLOAT32), OLD)
    with raises(UsageError, where=f"--precision {precision}"):
        check_engine(EngineChoice(engine, precision), OLD)
    with raises(UsageError, where=f"--precision {precision}") as caught:
        check_engine(EngineChoice(engine, precision, is_stored=True), OLD)
    assert "--new-store" in caught.value.advice
