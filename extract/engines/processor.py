"""The processor: its name, and its instructions for vectors and matrices."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from base.terminal import format_count

CPUINFO = Path("/proc/cpuinfo")
"""Linux's description of the processor."""


class Instructions(StrEnum):
    """Set of instructions that decides the speed of the backbone."""

    AVX2 = "AVX2"
    AVX512 = "AVX-512"
    VNNI = "VNNI"
    AVX512_BF16 = "AVX-512 BF16"
    AMX = "AMX"
    AMX_BF16 = "AMX BF16"
    AMX_INT8 = "AMX INT8"
    ARM_BF16 = "BF16"
    ARM_I8MM = "I8MM"
    ARM_DOTPROD = "DotProd"


_FLAGS = {
    "avx2": Instructions.AVX2,
    "avx512f": Instructions.AVX512,
    "avx512_vnni": Instructions.VNNI,
    "avx_vnni": Instructions.VNNI,
    "avx512_bf16": Instructions.AVX512_BF16,
    "amx_tile": Instructions.AMX,
    "amx_bf16": Instructions.AMX_BF16,
    "amx_int8": Instructions.AMX_INT8,
    "bf16": Instructions.ARM_BF16,
    "i8mm": Instructions.ARM_I8MM,
    "asimddp": Instructions.ARM_DOTPROD,
}
"""Instructions for each word of the line `flags` (x86) or `Features` (ARM) in `/proc/cpuinfo`."""
_IMPLIED = {
    Instructions.AVX2: {Instructions.AVX512},
    Instructions.AMX: {Instructions.AMX_BF16, Instructions.AMX_INT8},
}
"""Instructions that a description omits if the processor has one of these others, which imply them."""


@dataclass(frozen=True)
class Processor:
    """Name and instructions of a processor."""

    name: str
    """Name that the manufacturer gave it; in a virtual machine often only the family, on ARM only the architecture."""
    instructions: frozenset[Instructions] = frozenset()
    """Empty on systems other than Linux, where they are unknown."""

    def describe(self, num_cores: int) -> str:
        """Return name, number of cores and instructions as one line."""
        shown = [each for each in Instructions if each in self.instructions]
        shown = [each for each in shown if self.instructions.isdisjoint(_IMPLIED.get(each, ()))]
        return ", ".join([self.name, format_count(num_cores, "core"), *shown])


def find_processor(cpuinfo: Path = CPUINFO) -> Processor:
    """Return the processor of this computer; without `/proc/cpuinfo`, only its name is known."""
    unnamed = platform.machine() or "unknown processor"
    if not cpuinfo.is_file():
        return Processor(platform.processor() or unnamed)
    with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
        return parse_cpuinfo(lines, unnamed)


def parse_cpuinfo(lines: Iterator[str], unnamed: str) -> Processor:
    """Return the processor that `/proc/cpuinfo` describes.

    Args:
        lines: lines of the file. Only those of the first core are read, because all have the same instructions.
        unnamed: name of a processor without a line `model name`, as on ARM.
    """
    fields: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.partition(":")
        if separator:
            fields[name.strip()] = value.strip()
        elif fields:
            break
    flags = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    instructions = frozenset(_FLAGS[flag] for flag in flags if flag in _FLAGS)
    return Processor(" ".join(fields.get("model name", "").split()) or unnamed, instructions)


def has_gpu(devices: Path = Path("/dev"), wsl_drivers: Path = Path("/usr/lib/wsl/lib")) -> bool:
    """Return whether there is a GPU that TensorFlow can use, without importing TensorFlow, which takes seconds.

    GPUs of NVIDIA are found, on Linux and in WSL. TensorFlow computes on the processor all the same if the GPU's
    libraries are not installed.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(devices.glob("nvidia[0-9]*")) or ((devices / "dxg").exists() and any(wsl_drivers.glob("libcuda.so*")))
