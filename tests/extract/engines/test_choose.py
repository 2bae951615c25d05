"""Choice of engine and precision, and refusals of those that a computer does not support."""

from __future__ import annotations

import sys

import pytest

from base.errors import UsageError
from extract.config import EngineName, Precision
from extract.engines.choose import Computer, EngineChoice, check_engine, choose_engine, default_engine
from extract.engines.processor import Instructions, Processor
from features.schema import Fingerprint
from tests.errors import raises
from tests.features.stores import make_fingerprint

pytestmark = pytest.mark.unit

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
