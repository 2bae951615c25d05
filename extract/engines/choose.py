"""Choose the engine and the precision: replace `auto` by what the stores, the processor and the packages allow."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from base.errors import UsageError, require_extra
from base.terminal import Console
from extract.config import EngineName, ExtractConfig, Precision
from extract.engines.processor import Instructions, Processor, find_processor, has_gpu
from features.schema import Fingerprint

AUTO_PRECISIONS = (Precision.BFLOAT16,)
"""Precisions that `auto` may choose, the fastest first. It chooses float32 if none of them is possible.

A head on int8 features loses accuracy in the exported model, which computes in float32
(docs/explanation/performance.md).
"""
_INSTRUCTIONS = {
    Precision.BFLOAT16: (Instructions.AMX_BF16, Instructions.AVX512_BF16, Instructions.ARM_BF16),
    Precision.INT8: (Instructions.AMX_INT8, Instructions.VNNI, Instructions.ARM_I8MM),
}
"""Instructions that make a precision fast; one of them is enough."""
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


@dataclass(frozen=True)
class Computer:
    """Properties of a computer that decide which precisions are possible."""

    processor: Processor
    has_gpu: bool = False
    """Whether TensorFlow can use a GPU."""
    has_onednn: bool = True
    """Whether TensorFlow may use oneDNN."""


@dataclass(frozen=True)
class EngineChoice:
    """Engine and precision of an extraction; neither is `auto`."""

    engine: EngineName
    precision: Precision
    message: str = ""
    """The choice and its reason, for the user; empty if the options and defaults decided."""
    is_stored: bool = False
    """Whether a store has features of this engine and precision."""


def resolve_engine(config: ExtractConfig, stored: Iterable[Fingerprint], console: Console) -> ExtractConfig:
    """Replace `auto` in the options, and print the choice.

    Args:
        config: options of the extraction.
        stored: fingerprints of the stores that the extraction will update.
        console: prints the choice and its reason.

    Returns:
        The options with a concrete engine and precision, which this computer supports.

    Raises:
        UsageError: the options exclude each other, or the computer does not support them.
    """
    computer = find_computer()
    choice = choose_engine(config.engine, config.precision, stored, computer)
    check_engine(choice, computer)
    if choice.message:
        console.info(choice.message)
    return replace(config, engine=choice.engine, precision=choice.precision)


def find_computer() -> Computer:
    """Return the properties of this computer."""
    return Computer(find_processor(), has_gpu(), os.environ.get(_ONEDNN) != "0")


def choose_engine(
    engine: EngineName, precision: Precision, stored: Iterable[Fingerprint], computer: Computer
) -> EngineChoice:
    """Choose engine and precision for two options, which may be `auto`; the values of a store decide first."""
    for found in stored:
        is_known = found.engine in set(EngineName) and found.precision in set(Precision)
        if is_known and engine in (EngineName.AUTO, found.engine) and precision in (Precision.AUTO, found.precision):
            return _repeat_choice(engine, precision, EngineName(found.engine), Precision(found.precision))
    if precision is not Precision.AUTO:
        return EngineChoice(_fill_engine(engine, precision), precision)
    obstacles = []
    for candidate in AUTO_PRECISIONS:
        choice = EngineChoice(_fill_engine(engine, candidate), candidate)
        obstacle = _find_obstacle(choice, computer)
        if not obstacle:
            names = " and ".join(list_instructions(computer.processor, candidate))
            return replace(choice, message=f"precision: {candidate}, because the processor has {names}")
        obstacles.append(obstacle)
    reason = " and ".join(dict.fromkeys(obstacles))
    float32 = Precision.FLOAT32
    return EngineChoice(_fill_engine(engine, float32), float32, f"precision: {float32}, because {reason}")


def _fill_engine(engine: EngineName, precision: Precision) -> EngineName:
    return default_engine(precision) if engine is EngineName.AUTO else engine


def default_engine(precision: str) -> EngineName:
    """Return the engine that `auto` means in a new store of a precision."""
    return EngineName.OPENVINO if precision == Precision.INT8 else EngineName.TENSORFLOW


def _repeat_choice(
    engine: EngineName, precision: Precision, stored_engine: EngineName, stored_precision: Precision
) -> EngineChoice:
    """Return engine and precision of a store; the message has those that `auto` might not choose without it."""
    chosen = []
    if precision is Precision.AUTO:
        chosen.append(f"precision: {stored_precision}")
    if engine is EngineName.AUTO and stored_engine is not default_engine(stored_precision):
        chosen.append(f"engine: {stored_engine}")
    message = f"{', '.join(chosen)}, as in the store" if chosen else ""
    return EngineChoice(stored_engine, stored_precision, message, is_stored=True)


def _find_obstacle(choice: EngineChoice, computer: Computer) -> str:
    """Return the reason why `auto` does not choose a precision, as a clause; empty if it can choose it."""
    if choice.engine is EngineName.TENSORFLOW and computer.has_gpu:
        return "TensorFlow can use the GPU"
    if not list_instructions(computer.processor, choice.precision):
        return f"the processor has no {choice.precision} instructions"
    try:
        check_engine(choice, computer)
    except UsageError as error:
        return f"{choice.precision} needs {error.expected}"
    return ""


def list_instructions(processor: Processor, precision: Precision) -> list[Instructions]:
    """List the instructions of a processor that make bfloat16 or int8 fast."""
    return [each for each in _INSTRUCTIONS[precision] if each in processor.instructions]


def check_options(engine: EngineName, precision: Precision) -> None:
    """Raise UsageError if no computer supports the engine in the precision."""
    if (engine, precision) == (EngineName.TENSORFLOW, Precision.INT8):
        raise UsageError("--precision int8", "--engine openvino or auto", f"--engine {engine}", "Leave --engine out")


def check_engine(choice: EngineChoice, computer: Computer) -> None:
    """Raise UsageError if an engine is not installed, or if it or the processor does not support the precision."""
    option = f"--precision {choice.precision}"
    check_options(choice.engine, choice.precision)
    if choice.precision is Precision.INT8:
        # A store with features has a quantised model already.
        for package in ("openvino",) if choice.is_stored else ("openvino", "nncf"):
            require_extra(package, option, "extract PRECISION=int8", "int8")
    elif choice.engine is EngineName.OPENVINO:
        require_extra("openvino", "--engine openvino", "extract ENGINE=openvino")
    if choice.precision is Precision.FLOAT32:
        return
    if not list_instructions(computer.processor, choice.precision):
        # OpenVINO computes int8 without them as well, but hardly faster, and sums of 16 bits may overflow.
        names = " or ".join(_INSTRUCTIONS[choice.precision])
        expected, got = f"a processor with {names}", f"{computer.processor.name} without them"
        advice = "Leave the option out"
        if choice.is_stored:
            advice = "Use a computer that has them, or give another --store or --new-store"
        raise UsageError(option, expected, got, advice)
    if choice.engine is EngineName.TENSORFLOW and not computer.has_onednn:
        advice = f"Unset {_ONEDNN}, or leave the option out"
        raise UsageError(option, "TensorFlow with oneDNN", f"{_ONEDNN}=0", advice)
