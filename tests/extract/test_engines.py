"""All engines: what is asked of a machine, Keras's numbers, and the same bits from every thread."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from extract.backbone import cut_backbone, join_cuts
from extract.config import EngineName, Precision
from extract.engines import (
    Engine,
    Streams,
    build_engine,
    check_engine,
    count_cores,
    has_bfloat16,
    plan_streams,
)

if TYPE_CHECKING:
    import keras

ROOT = Path(__file__).parents[2]
STREAMS = Streams(num_cores=2, num_streams=2, num_threads=1)
TOLERANCES = {EngineName.TENSORFLOW: 1e-4, EngineName.OPENVINO: 1e-3}
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(Path("/proc/cpuinfo")), reason="a processor without bfloat16")


@pytest.fixture(scope="module")
def model(backbone: keras.Model) -> keras.Model:
    """A model of two outputs, (7, 7, 256) and (7, 7, 288)."""
    return join_cuts([cut_backbone(backbone, cut) for cut in ("mixed0", "mixed2")])


@pytest.fixture(scope="module")
def batch() -> NDArray[np.float32]:
    return np.random.default_rng(17).uniform(-1, 1, (8, 75, 75, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=list(EngineName))
def name(request: pytest.FixtureRequest) -> EngineName:
    return EngineName(request.param)


@pytest.fixture(scope="module")
def engine(name: EngineName, model: keras.Model) -> Engine:
    """An engine for both outputs in float32."""
    return build_engine(name, Precision.FLOAT32, model, STREAMS)


def assert_equal(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        assert other.std() > 0.01
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * float(other.std()))


def test_engine_of_two_outputs_equals_keras_predict(
    name: EngineName, engine: Engine, model: keras.Model, batch: NDArray[np.float32]
) -> None:
    found = engine.run(batch)
    assert [array.shape for array in found] == [(8, 7, 7, 256), (8, 7, 7, 288)]
    assert_close(found, model.predict(batch, verbose=0), TOLERANCES[name])


def test_engine_of_one_output_equals_keras_predict(
    name: EngineName, backbone: keras.Model, batch: NDArray[np.float32]
) -> None:
    cut = cut_backbone(backbone, "mixed0")
    for model in (cut, join_cuts([cut])):
        found = build_engine(name, Precision.FLOAT32, model, STREAMS).run(batch)
        assert_close(found, [cut.predict(batch, verbose=0)], TOLERANCES[name])


def test_engine_called_from_two_threads_at_once_gives_the_same_bits(engine: Engine, batch: NDArray[np.float32]) -> None:
    expected = engine.run(batch)
    backwards = engine.run(batch[::-1])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(engine.run, [batch, batch[::-1]] * 4))
    for forth, back in zip(found[::2], found[1::2], strict=True):
        assert_equal(forth, expected)
        assert_equal(back, backwards)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_engine_row_does_not_depend_on_the_others_or_on_how_many_they_are(
    engine: Engine, batch: NDArray[np.float32], size: int
) -> None:
    expected = engine.run(batch)
    assert_equal(engine.run(batch[-size:]), [array[-size:] for array in expected])
    order = np.random.default_rng(size).permutation(8)
    assert_equal(engine.run(batch[order]), [array[order] for array in expected])


def test_engine_of_openvino_tells_no_server_of_it(model: keras.Model) -> None:
    build_engine(EngineName.OPENVINO, Precision.FLOAT32, model, STREAMS)
    assert sys.modules["openvino_telemetry"] is None


def test_engine_result_is_the_callers_own(engine: Engine, batch: NDArray[np.float32]) -> None:
    first = engine.run(batch)
    kept = [array.copy() for array in first]
    engine.run(batch[::-1])
    assert_equal(first, kept)


@needs_bfloat16
def test_engine_in_bfloat16_differs_a_little_and_leaves_float32_as_it_was(
    name: EngineName, engine: Engine, model: keras.Model, batch: NDArray[np.float32]
) -> None:
    expected = engine.run(batch)

    rough = build_engine(name, Precision.BFLOAT16, model, STREAMS)
    rounded = rough.run(batch)
    later = build_engine(name, Precision.FLOAT32, model, STREAMS)

    for found, exact in zip(rounded, expected, strict=True):
        assert found.dtype == np.float32
        assert 0.001 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.1
    for again in (engine, later):
        assert_equal(again.run(batch), expected)
    with ThreadPoolExecutor(1) as pool:
        # One thread that has run either precision, and then runs the other.
        assert_equal(pool.submit(rough.run, batch).result(), rounded)
        for again in (engine, later):
            assert_equal(pool.submit(again.run, batch).result(), expected)
        assert_equal(pool.submit(rough.run, batch).result(), rounded)


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
def test_has_bfloat16_is_what_linux_lists(tmp_path: Path, cpuinfo: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_bfloat16(tmp_path / "cpuinfo") is expected


def test_has_bfloat16_without_the_file_is_false(tmp_path: Path) -> None:
    assert not has_bfloat16(tmp_path / "cpuinfo")


@pytest.mark.parametrize(
    ("num_cores", "num_streams", "num_threads"),
    [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1), (16, 8, 8), (64, 8, 56)],
)
def test_plan_streams_shares_out_every_core(num_cores: int, num_streams: int, num_threads: int) -> None:
    assert plan_streams(num_cores) == Streams(num_cores, num_streams, num_threads)


def test_count_cores_is_what_was_asked_for_or_what_the_process_may_use() -> None:
    assert count_cores(3) == 3
    assert count_cores(0) == len(os.sched_getaffinity(0))


def test_check_engine_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    check_engine(EngineName.TENSORFLOW, Precision.FLOAT32)
    with pytest.raises(UsageError) as raised:
        check_engine(EngineName.OPENVINO, Precision.FLOAT32)
    assert raised.value.exit_status == 2
    assert str(raised.value) == (
        "--engine openvino: expected OpenVINO, got none installed. "
        "Run `pip install openvino`, or `make extract ENGINE=openvino`, which does."
    )


def test_check_engine_bfloat16_where_tensorflow_ignores_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.engines.has_bfloat16", lambda _: True)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    check_engine(EngineName.OPENVINO, Precision.BFLOAT16)
    check_engine(EngineName.TENSORFLOW, Precision.FLOAT32)
    with pytest.raises(UsageError) as raised:
        check_engine(EngineName.TENSORFLOW, Precision.BFLOAT16)
    assert raised.value.got == "TF_ENABLE_ONEDNN_OPTS=0"


@pytest.mark.parametrize("name", list(EngineName))
def test_check_engine_bfloat16_needs_a_processor_with_it(monkeypatch: pytest.MonkeyPatch, name: EngineName) -> None:
    monkeypatch.setattr("extract.engines.has_bfloat16", lambda _: True)
    check_engine(name, Precision.BFLOAT16)
    monkeypatch.setattr("extract.engines.has_bfloat16", lambda _: False)
    check_engine(name, Precision.FLOAT32)
    with pytest.raises(UsageError) as raised:
        check_engine(name, Precision.BFLOAT16)
    assert str(raised.value) == (
        "--precision bfloat16: expected a processor with bfloat16 instructions, got none that Linux reports."
        " Leave the option out."
    )
