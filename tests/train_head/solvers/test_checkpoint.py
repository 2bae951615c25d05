"""Checkpoints: when they are saved, exact restoration, and damaged or foreign files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from tests.errors import count_warnings
from train_head.solvers.checkpoint import Checkpoint, remove_checkpoints
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import EarlyStopping, Epoch

pytestmark = pytest.mark.unit

ARRAYS: list[NDArray[Any]] = [
    np.array(7),
    np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
    np.zeros((2, 0), np.float32),
    np.array([2**63 + 1], np.uint64),
]
KEPT = HeadWeights(
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array([0.1, 0.2, 0.3], np.float32),
    np.full((3, 1), -0.5, np.float32),
    np.array([4], np.float32),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of a checkpoint in a folder that does not exist yet."""
    return tmp_path / "checkpoints/fit-0.npz"


def make_stopping(num_epochs: int, patience: int = 0) -> EarlyStopping:
    """Make a history whose epochs each improve, with values that need all bits."""
    history = [Epoch(n, 1 / 3 / n, 1 - 0.1 / n, 0.7 / n, 0.3, 0.01 * n) for n in range(1, num_epochs + 1)]
    return EarlyStopping(patience, history, KEPT)


def list_arrays() -> list[NDArray[Any]]:
    return ARRAYS


def forbid_arrays() -> list[NDArray[Any]]:
    raise AssertionError("arrays requested, although nothing is to be saved")


def assert_same_arrays(mine: list[NDArray[Any]], theirs: list[NDArray[Any]]) -> None:
    assert [(array.dtype, array.shape, array.tobytes()) for array in mine] == [
        (array.dtype, array.shape, array.tobytes()) for array in theirs
    ]


State = tuple[EarlyStopping, list[NDArray[Any]]]


def assert_restored(state: State, num_epochs: int = 2) -> None:
    stopping, arrays = state
    assert_same_arrays(arrays, ARRAYS)
    assert stopping.history == make_stopping(num_epochs).history
    assert stopping.kept is not None
    assert_same_arrays(stopping.kept.list_weights(), KEPT.list_weights())


def is_missing(checkpoint: Checkpoint, console: Console) -> bool:
    """Return whether a checkpoint loads as an empty history."""
    stopping, arrays = checkpoint.load(0, console)
    return not stopping.history and stopping.kept is None and not arrays


@pytest.mark.usefixtures("eager")
def test_checkpoint_saved_when_due_restores_every_value(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoint(path, "key").save_if_due(list_arrays, make_stopping(2), 9)
    assert [file.name for file in path.parent.iterdir()] == ["fit-0.npz"]
    assert_restored(Checkpoint(path, "key").load(0, quiet))
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("eager")
def test_checkpoint_of_120_arrays_keeps_their_order(path: Path, quiet: Console) -> None:
    arrays: list[NDArray[Any]] = [np.array(number) for number in range(120)]
    Checkpoint(path, "key").save_if_due(lambda: arrays, make_stopping(1), 9)
    _, found = Checkpoint(path, "key").load(0, quiet)
    assert [int(array) for array in found] == list(range(120))


@pytest.mark.usefixtures("eager")
def test_checkpoint_saved_again_has_the_newer_state(path: Path, quiet: Console) -> None:
    checkpoint = Checkpoint(path, "key")
    for num_epochs in (1, 2, 3):
        checkpoint.save_if_due(list_arrays, make_stopping(num_epochs), 9)
        assert_restored(checkpoint.load(0, quiet), num_epochs)
    assert [file.name for file in path.parent.iterdir()] == ["fit-0.npz"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("patience", [0, 3])
def test_checkpoint_restores_patience_and_kept_epoch(path: Path, quiet: Console, patience: int) -> None:
    rows = [Epoch(n, 0.5, 0.5, val_loss, 0.5, 0.1) for n, val_loss in enumerate([0.5, 0.3, 0.4], 1)]
    stopping = EarlyStopping(patience, rows, KEPT)
    checkpoint = Checkpoint(path, "key")
    checkpoint.save_if_due(list_arrays, stopping, 9)
    resumed, _ = checkpoint.load(patience, quiet)
    assert (resumed.history, resumed.kept_epoch, resumed.is_over) == (rows, 2 if patience else 3, False)
    np.testing.assert_array_equal(resumed.require_kept(0.1).input_kernel, KEPT.input_kernel)
    worse = Epoch(4, 0.5, 0.5, 0.4, 0.5, 0.1), Epoch(5, 0.5, 0.5, 0.4, 0.5, 0.1)
    for row in worse:
        resumed.record(row, lambda: KEPT)
    assert resumed.is_over == (patience == 3)


def test_checkpoint_before_it_is_due_requests_no_arrays(path: Path, quiet: Console) -> None:
    checkpoint = Checkpoint(path, "key")
    for num_epochs in range(1, 9):
        checkpoint.save_if_due(forbid_arrays, make_stopping(num_epochs), 9)
    assert not path.parent.exists()
    assert is_missing(checkpoint, quiet)


def test_checkpoint_is_due_after_10_s_or_20_times_its_cost(
    path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    costs = iter([0.1, 3.0, 0.0])

    def sync(folder: Path) -> None:
        now[0] += next(costs)

    monkeypatch.setattr("train_head.solvers.checkpoint.sync_folder", sync)
    checkpoint = Checkpoint(path, "key")
    saved = []
    for number, moment in enumerate([109.9, 110.0, 120.0, 120.2, 183.0, 183.3], 1):
        now[0] = moment
        before = path.read_bytes() if path.exists() else b""
        checkpoint.save_if_due(list_arrays, make_stopping(number), 99)
        if path.exists() and path.read_bytes() != before:
            saved.append(moment)
    # The first save is due 10 s after the start: at 110.0. It takes 0.1 s, so the next is due 10 s after its end: at
    # 120.1. The second save, at 120.2, takes 3 s, so the next is due 20 times 3 s after its end: at 183.2.
    assert saved == [110.0, 120.2, 183.3]
    assert_restored(checkpoint.load(0, quiet), 6)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("keep_final", [False, True])
@pytest.mark.parametrize("end", ["all-epochs", "out-of-patience", "diverged"])
def test_checkpoint_of_the_final_state_is_saved_only_on_request(
    path: Path, quiet: Console, keep_final: bool, end: str
) -> None:
    num_epochs, stopping = 9, make_stopping(2)
    if end == "all-epochs":
        num_epochs = 2
    elif end == "out-of-patience":
        rows = [Epoch(1, 0.5, 0.5, 0.4, 0.5, 0.1), Epoch(2, 0.5, 0.5, 0.6, 0.5, 0.1)]
        stopping = EarlyStopping(1, rows, KEPT)
    else:
        stopping = EarlyStopping(0, [stopping.history[0], Epoch(2, math.nan, 0.5, 0.5, 0.5, 0.1)], KEPT)
    # The final state is not saved by default.
    checkpoint = Checkpoint(path, "key", keep_final=True) if keep_final else Checkpoint(path, "key")
    checkpoint.save_if_due(list_arrays if keep_final else forbid_arrays, stopping, num_epochs)
    assert path.exists() == keep_final
    if keep_final:
        found, _ = checkpoint.load(1 if end == "out-of-patience" else 0, quiet)
        assert [row.epoch for row in found.history] == [1, 2]
        assert [row.is_finite for row in found.history] == [True, end != "diverged"]
        assert found.is_over == (end != "all-epochs")


def test_checkpoint_of_the_final_state_is_saved_at_any_time_without_arrays(path: Path, quiet: Console) -> None:
    checkpoint = Checkpoint(path, "key", keep_final=True)
    checkpoint.save_if_due(forbid_arrays, make_stopping(1), 2)
    checkpoint.save_if_due(forbid_arrays, make_stopping(2), 2)
    found, arrays = checkpoint.load(0, quiet, [array.shape for array in list_arrays()])
    # No later step needs the solver's arrays, which may take hundreds of megabytes.
    assert arrays == []
    assert [row.epoch for row in found.history] == [1, 2]
    assert_same_arrays(found.require_kept(0.1).list_weights(), KEPT.list_weights())


def test_remove_checkpoints_removes_only_its_own_files(tmp_path: Path) -> None:
    own = ["fit-0.npz", "fit-12.partial", "head-fit-0.npz", "outcome-3.json", ".partial-outcome-3.json"]
    foreign = ["notes.txt", "fit-0.npz.bak", "my-fit-0.npz", "outcome.json"]
    elsewhere = tmp_path / "elsewhere.npz"
    for path in (
        elsewhere,
        *(tmp_path / "own" / name for name in own),
        *(tmp_path / "both" / n for n in own + foreign),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (tmp_path / "both/fit-7.npz").symlink_to(elsewhere)
    (tmp_path / "link").symlink_to(tmp_path / "both")
    for name in ("own", "link", "both", "missing"):
        remove_checkpoints(tmp_path / name)
        if name == "link":
            assert len(list((tmp_path / "both").iterdir())) == len(own + foreign) + 1
    assert not (tmp_path / "own").exists()
    assert {path.name for path in (tmp_path / "both").iterdir()} == {*foreign, "fit-7.npz"}
    assert elsewhere.exists()


def test_checkpoint_without_kept_weights_is_not_saved(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = EarlyStopping(0, [Epoch(1, math.nan, 0.5, math.nan, 0.5, 0.1)], None)
    Checkpoint(path, "key", keep_final=True).save_if_due(list_arrays, stopping, 9)
    assert is_missing(Checkpoint(path, "key", keep_final=True), quiet)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("eager")
def test_checkpoint_of_another_key_is_ignored_without_warning(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoint(path, "one").save_if_due(list_arrays, make_stopping(2), 9)
    data = path.read_bytes()
    for key in ("another", "on", "one ", ""):
        assert is_missing(Checkpoint(path, key), quiet)
    assert capsys.readouterr() == ("", "")
    assert path.read_bytes() == data


@pytest.mark.usefixtures("eager")
def test_checkpoint_of_other_inputs_is_ignored_without_warning(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(path, "key")
    checkpoint.extend_key(b"\x01\x02")
    checkpoint.save_if_due(list_arrays, make_stopping(2), 9)
    for inputs, found in ((b"\x01\x02", True), (b"\x01\x03", False), (b"\x01", False), (b"", False)):
        other = Checkpoint(path, "key")
        other.extend_key(inputs)
        assert is_missing(other, quiet) != found, inputs
    assert is_missing(Checkpoint(path, "key"), quiet)
    assert capsys.readouterr().err == ""


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(share * len(data))]


def make_npz(path: Path) -> bytes:
    np.savez(path, something=np.zeros(3))
    return path.read_bytes()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(cut(0.01), id="cut-in-the-header"),
        pytest.param(cut(0.5), id="cut-in-half"),
        pytest.param(lambda data: data[:-1], id="a-byte-short"),
        pytest.param(lambda data: b"no zip file at all\n" * 20, id="not-a-zip"),
        pytest.param(lambda data: bytes(len(data)), id="zeros"),
        pytest.param(lambda data: data.replace(b"array_001", b"arrax_001"), id="renamed-array"),
        pytest.param(lambda data: data.replace(b'"history"', b'"hist0ry"'), id="other-text"),
        pytest.param(lambda data: b"\x93NUMPY\x01\x00v\x00" + data, id="npy"),
    ],
)
def test_checkpoint_with_damage_warns_and_stays(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    Checkpoint(path, "key").save_if_due(list_arrays, make_stopping(2), 9)
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    assert is_missing(Checkpoint(path, "key"), quiet)
    assert count_warnings(path, capsys) == 1
    assert path.read_bytes() == damaged


@pytest.mark.usefixtures("eager")
def test_checkpoint_with_a_flipped_bit_warns_or_restores_every_value(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoint(path, "key").save_if_due(list_arrays, make_stopping(2), 9)
    data = path.read_bytes()
    num_warnings = 0
    for place in range(0, len(data), 17):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        state = Checkpoint(path, "key").load(0, quiet)
        has_warned = count_warnings(path, capsys) == 1
        assert has_warned != bool(state[0].history), place
        if not has_warned:
            assert_restored(state)
        num_warnings += has_warned
    assert num_warnings > len(data) / 17 / 2


@pytest.mark.usefixtures("eager")
def test_checkpoint_replaced_by_another_npz_warns(
    path: Path, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    path.parent.mkdir()
    path.write_bytes(make_npz(tmp_path / "other.npz"))
    assert is_missing(Checkpoint(path, "key"), quiet)
    assert count_warnings(path, capsys) == 1


@pytest.mark.usefixtures("eager")
def test_checkpoint_with_damage_is_replaced_when_due(path: Path, quiet: Console) -> None:
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    path.with_suffix(".partial").write_bytes(b"from a killed run")
    checkpoint = Checkpoint(path, "key")
    checkpoint.save_if_due(list_arrays, make_stopping(2), 9)
    assert_restored(checkpoint.load(0, quiet))
    assert [file.name for file in path.parent.iterdir()] == ["fit-0.npz"]


def test_checkpoint_without_a_file_is_empty_without_warning(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(path, "key")
    assert is_missing(checkpoint, quiet)
    checkpoint.remove()
    assert capsys.readouterr().err == ""
    assert not path.parent.exists()


@pytest.mark.usefixtures("eager")
def test_checkpoint_removed_leaves_its_folder(path: Path, quiet: Console) -> None:
    checkpoint = Checkpoint(path, "key")
    checkpoint.save_if_due(list_arrays, make_stopping(2), 9)
    checkpoint.remove()
    assert list(path.parent.iterdir()) == []
    assert is_missing(checkpoint, quiet)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("obstacle", ["file-for-folder", "folder-for-file", "folder-for-partial"])
def test_checkpoint_in_an_occupied_place_is_not_saved(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], obstacle: str
) -> None:
    if obstacle == "file-for-folder":
        path.parent.write_text("a file")
    elif obstacle == "folder-for-file":
        path.mkdir(parents=True)
    else:
        path.with_suffix(".partial").mkdir(parents=True)
    before = sorted(path.parent.parent.rglob("*"))
    checkpoint = Checkpoint(path, "key")
    assert is_missing(checkpoint, quiet)
    checkpoint.save_if_due(list_arrays, make_stopping(2), 9)
    assert is_missing(checkpoint, quiet)
    checkpoint.remove()
    assert sorted(path.parent.parent.rglob("*")) == before
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("eager")
def test_checkpoint_loads_only_arrays_of_the_expected_shapes(
    path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoint(path, "key").save_if_due(list_arrays, make_stopping(2), 9)
    shapes = [array.shape for array in ARRAYS]
    assert_restored(Checkpoint(path, "key").load(0, quiet, shapes))
    for number, others in enumerate((shapes[:-1], [*shapes, (1,)], [(1,), *shapes[1:]], []), 1):
        stopping, arrays = Checkpoint(path, "key").load(0, quiet, others)
        assert (stopping.history, stopping.kept, arrays) == ([], None, []), number
        assert count_warnings(path, capsys) == 1


@pytest.mark.usefixtures("eager")
def test_checkpoint_derived_keeps_its_final_state_under_its_own_name_and_key(path: Path, quiet: Console) -> None:
    checkpoint = Checkpoint(path, "key")
    checkpoint.derive("head").save_if_due(forbid_arrays, make_stopping(2), 2)
    assert [file.name for file in path.parent.iterdir()] == ["head-fit-0.npz"]
    stopping, _ = checkpoint.derive("head").load(0, quiet)
    assert [row.epoch for row in stopping.history] == [1, 2]
    assert is_missing(Checkpoint(path.with_name("head-fit-0.npz"), "key"), quiet)
    assert is_missing(checkpoint, quiet)
    remove_checkpoints(path.parent)
    assert not path.parent.exists()


@pytest.mark.usefixtures("eager")
def test_checkpoint_without_a_path_saves_nothing(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for checkpoint in (Checkpoint(None, keep_final=True), Checkpoint(None).derive("head")):
        checkpoint.extend_key(b"inputs")
        checkpoint.save_if_due(forbid_arrays, make_stopping(2), 9)
        checkpoint.save_if_due(forbid_arrays, make_stopping(2), 2)
        checkpoint.remove()
        assert is_missing(checkpoint, quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("eager")
def test_checkpoint_in_missing_folders_and_behind_a_link_is_restored(tmp_path: Path, quiet: Console) -> None:
    path = tmp_path / "run/checkpoints/fit-0.npz"
    Checkpoint(path, "key").save_if_due(list_arrays, make_stopping(2), 9)
    (tmp_path / "link.npz").symlink_to(path)
    assert_restored(Checkpoint(tmp_path / "link.npz", "key").load(0, quiet))


def test_checkpoint_with_pickled_objects_warns_without_running_them(
    path: Path, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "sprung"), "w")

    path.parent.mkdir()
    np.savez(path, text=np.array([Trap()], dtype=object))
    assert is_missing(Checkpoint(path, "key"), quiet)
    assert count_warnings(path, capsys) == 1
    assert not (tmp_path / "sprung").exists()


def test_checkpoint_warning_names_an_error_without_message_by_its_class(
    path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    path.parent.mkdir()
    path.write_bytes(b"a file")
    monkeypatch.setattr(np, "load", fail)
    assert is_missing(Checkpoint(path, "key"), quiet)
    assert "MemoryError" in capsys.readouterr().err
