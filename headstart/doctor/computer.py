"""Computer: the processor, the precision that suits it, and the memory."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from base.terminal import format_bytes
from headstart.doctor.findings import Finding, Status

MIN_MEMORY = 2 * 10**9
"""Free bytes below which extraction may fail; docs/explanation/performance.md has the measured memory."""


def check_processor() -> Iterator[Finding]:
    """Describe the processor, and the precision that `--precision auto` chooses for it."""
    from extract.config import EngineName, Precision
    from extract.engines import count_cores
    from extract.engines.choose import choose_engine, find_computer
    from extract.engines.processor import Instructions

    computer = find_computer()
    known = computer.processor.instructions
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    is_slow = is_x86 and bool(known) and known.isdisjoint({Instructions.AVX2, Instructions.AVX512})
    advice = "Expect extraction to be several times slower than on newer processors" if is_slow else ""
    status = Status.NOTE if is_slow else Status.OK
    yield Finding("processor", computer.processor.describe(count_cores(0)), status, advice)
    message = choose_engine(EngineName.AUTO, Precision.AUTO, [], computer).message
    yield Finding("--precision auto", message.removeprefix("precision: "))


def check_memory() -> Iterator[Finding]:
    """Check the free memory."""
    from features.arrays import find_free_memory

    free = find_free_memory()
    if free is None:
        yield Finding("free memory", "not known on this system")
    else:
        advice = "Close other programs" if free < MIN_MEMORY else ""
        yield Finding("free memory", format_bytes(free), Status.NOTE if advice else Status.OK, advice)
