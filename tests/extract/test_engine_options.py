"""Engines and precisions that a computer supports, and the distribution of its cores."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from base.errors import UsageError
from extract.config import EngineName, Precision
from extract.engines import Streams, check_engine, count_cores, has_bfloat16, plan_streams
from tests.errors import raises

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx512f avx512_bf16 avx512_vnni\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n", True),
        ("processor\t: 0\nmodel name\t: Some bf16x CPU\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16 dgh\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm aes\n", False),
        ("", False),
    ],
)
def test_has_bfloat16_reads_the_features_that_linux_lists(tmp_path: Path, cpuinfo: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_bfloat16(tmp_path / "cpuinfo") is expected


def test_has_bfloat16_without_the_file_is_false(tmp_path: Path) -> None:
    assert not has_bfloat16(tmp_path / "cpuinfo")


@pytest.mark.parametrize(
    ("num_cores", "num_streams", "num_threads"),
    [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1), (16, 8, 8), (64, 8, 56)],
)
def test_plan_streams_uses_every_core(num_cores: int, num_streams: int, num_threads: int) -> None:
    assert plan_streams(num_cores) == Streams(num_cores, num_streams, num_threads)


def test_count_cores_returns_the_option_or_the_cores_of_the_process() -> None:
    assert count_cores(3) == 3
    assert count_cores(0) == len(os.sched_getaffinity(0))


def test_check_engine_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    check_engine(EngineName.TENSORFLOW, Precision.FLOAT32)
    with raises(UsageError, where="--engine openvino"):
        check_engine(EngineName.OPENVINO, Precision.FLOAT32)


def test_check_engine_bfloat16_that_tensorflow_would_ignore_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.engines.has_bfloat16", lambda _: True)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    check_engine(EngineName.OPENVINO, Precision.BFLOAT16)
    check_engine(EngineName.TENSORFLOW, Precision.FLOAT32)
    with raises(UsageError, where="--precision bfloat16", got="TF_ENABLE_ONEDNN_OPTS=0"):
        check_engine(EngineName.TENSORFLOW, Precision.BFLOAT16)


@pytest.mark.parametrize("name", list(EngineName))
def test_check_engine_bfloat16_without_support_by_the_processor_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: EngineName
) -> None:
    monkeypatch.setattr("extract.engines.has_bfloat16", lambda _: True)
    check_engine(name, Precision.BFLOAT16)
    monkeypatch.setattr("extract.engines.has_bfloat16", lambda _: False)
    check_engine(name, Precision.FLOAT32)
    with raises(UsageError, where="--precision bfloat16"):
        check_engine(name, Precision.BFLOAT16)
