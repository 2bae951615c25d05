"""Name and instructions of the processor, and the search for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from extract.engines.processor import Processor, find_processor, has_gpu, parse_cpuinfo

pytestmark = pytest.mark.unit

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
