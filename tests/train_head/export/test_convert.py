"""`convert_formats` keeps the formats that agree with the Keras model; a converter that ends early fails alone."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from tests.commands import run_command
from tests.errors import raises
from tests.files import read_files
from tests.systems import HANG_S
from tests.train_head.export.conftest import Exported
from train_head.data.batches import Array
from train_head.export import convert
from train_head.export.config import Dtype, ExportConfig, Format
from train_head.export.convert import ConversionError, convert_aside
from train_head.export.formats import FORMATS, find_format, import_format, list_files, parse_formats
from train_head.export.outputs import Outputs
from train_head.export.pictures import PictureGoneError
from train_head.export.result import ParityError
from train_head.export.target import EXPORT_NAMES
from train_head.export.write import export_run


class FakeFormat:
    """Format whose model is the Keras model with a difference added to the first probability."""

    def __init__(self, difference: float = 0.0, error: Exception | None = None) -> None:
        self.difference, self.error = difference, error

    def load(self, path: Path) -> Callable[[Array], Outputs]:
        if self.error:
            raise self.error
        run = import_format(Format.KERAS).load(path.parent.parent / "model.keras")

        def compute(images: Array) -> Outputs:
            found = run(images)
            return found._replace(probabilities=found.probabilities + np.float32(self.difference))

        return compute


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[Format, Any]:
    """Formats to replace: converters that write the files of a format, and fake modules that load them."""
    found: dict[Format, Any] = {}

    def write_files(each: Format, source: Path, folder: Path, dtype: Dtype) -> None:
        if isinstance(found[each], HeadstartError):
            raise found[each]
        for name in list_files(FORMATS[each].names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{each} {dtype}")

    monkeypatch.setattr(convert, "convert_aside", write_files)
    monkeypatch.setattr(convert, "import_format", lambda each: found.get(each) or import_format(each))
    return found


def test_export_run_without_a_format_that_agrees_keeps_the_earlier_export(
    exported: Exported, early_run: Path, tmp_path: Path, quiet: Console, fakes: dict[Format, Any]
) -> None:
    out = shutil.copytree(exported.out, tmp_path / "out")
    before = read_files(out)
    damaged = tmp_path / "model.tflite"
    fakes |= {Format.LITERT: FakeFormat(error=HeadstartError(damaged, "a model", "damaged", "Export again"))}
    fakes |= {Format.ONNX: FakeFormat(error=RuntimeError("no kernel"))}
    with raises(ParityError, where="--formats litert,onnx") as caught:
        export_run(ExportConfig(early_run, out, formats="litert,onnx"), quiet)
    assert caught.value.result.files == []
    assert read_files(out) == before


def test_export_run_with_a_full_disk_keeps_the_earlier_export(
    exported: Exported,
    early_run: Path,
    tmp_path: Path,
    quiet: Console,
    fakes: dict[Format, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(convert, "convert_aside", fill_disk)
    out = shutil.copytree(exported.out, tmp_path / "out")
    before = read_files(out)
    with raises(HeadstartError, where=out):
        export_run(ExportConfig(early_run, out, formats="keras,onnx"), quiet)
    assert read_files(out) == before


def test_export_run_with_a_picture_that_is_removed_during_it_names_the_picture(
    early_run: Path, tmp_path: Path, quiet: Console, fakes: dict[Format, Any]
) -> None:
    fakes |= {Format.LITERT: FakeFormat(error=PictureGoneError("a.jpg", "a picture", "no file", "Extract again"))}
    with raises(PictureGoneError, where="a.jpg"):
        export_run(ExportConfig(early_run, tmp_path / "out", formats="litert"), quiet)


def test_export_run_with_a_damaged_conversion_names_the_format(
    early_run: Path, tmp_path: Path, quiet: Console, fakes: dict[Format, Any]
) -> None:
    fakes |= {Format.LITERT: FakeFormat(error=HeadstartError("model.tflite", "a model", "none", "Export again"))}
    with raises(ParityError, where="--formats litert"):
        export_run(ExportConfig(early_run, tmp_path / "out", formats="litert"), quiet)


def test_export_run_without_keras_leaves_no_keras_file(
    exported: Exported, early_run: Path, tmp_path: Path, quiet: Console, fakes: dict[Format, Any]
) -> None:
    fakes |= {Format.LITERT: FakeFormat()}
    out = shutil.copytree(exported.out, tmp_path / "out")
    result = export_run(ExportConfig(early_run, out, formats="litert"), quiet)
    assert result.files[0] == out / "model.tflite"
    assert not (out / "model.keras").exists()
    with raises(HeadstartError):
        result.load()


def test_export_command_with_a_format_that_differs_writes_the_others_and_fails(
    early_run: Path, tmp_path: Path, fakes: dict[Format, Any]
) -> None:
    fakes |= {Format.LITERT: FakeFormat(), Format.ONNX: FakeFormat(0.01), Format.OPENVINO: FakeFormat(5e-5)}
    out = tmp_path / "out"
    arguments = ("--run", early_run, "--out", out, "--formats", "keras,litert,onnx,openvino", "--json")
    done = run_command("train_head.export.__main__", *arguments)
    assert done.status == 1
    names = ["model.keras", "model.tflite", "model.xml", "model.bin", "labels.txt"]
    assert [Path(file).name for file in done.json["files"]] == names
    assert {*names, "model.json", "parity.json"} <= {path.name for path in out.iterdir()}
    assert not (out / "model.onnx").exists()
    assert done.json["parity"]["litert"] == 0.0
    assert done.json["parity"]["openvino"] == pytest.approx(5e-5, rel=0.01)
    # As the error advises; what was written is kept.
    inode = (out / "model.keras").stat().st_ino
    again = run_command("train_head.export.__main__", *arguments[:5], "keras,litert,openvino", "--json")
    assert (again.status, again.json) == (0, done.json)
    assert (out / "model.keras").stat().st_ino == inode


@pytest.mark.unit
def test_convert_aside_of_a_killed_converter_is_an_error_with_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -KILL $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with raises(ConversionError, where="--formats onnx") as caught:
        convert_aside(Format.ONNX, tmp_path, tmp_path, Dtype.FLOAT32)
    assert "SIGKILL" in caught.value.got


@pytest.mark.unit
@pytest.mark.parametrize(("message", "free"), [("OSError: [Errno 28] No space left on device", 2**40), ("iostream", 0)])
def test_convert_aside_with_a_full_disk_is_an_error_of_the_disk(
    message: str, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho '{message}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
        convert_aside(Format.ONNX, tmp_path, tmp_path, Dtype.FLOAT32)


def test_convert_aside_of_a_missing_model_is_an_error_with_the_last_line(tmp_path: Path) -> None:
    with raises(ConversionError) as caught:
        convert_aside(Format.SAVED_MODEL, tmp_path, tmp_path, Dtype.FLOAT32)
    assert "exit status 1" in caught.value.got
    assert str(tmp_path / "model.keras") in caught.value.got


def test_converter_ends_with_its_parent(tmp_path: Path) -> None:
    program = "import threading, time; from train_head.export import convert; "
    program += "threading.Thread(target=convert._exit_with_parent, daemon=True).start(); time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        assert child.stdin
        child.stdin.close()
        assert child.wait(timeout=HANG_S) == 1


@pytest.mark.unit
def test_parse_formats_sorts_and_removes_repetitions() -> None:
    assert parse_formats("onnx, keras,onnx", Dtype.FLOAT32) == [Format.KERAS, Format.ONNX]


@pytest.mark.unit
@pytest.mark.parametrize("formats", ["keras", "saved_model", "keras,saved_model"])
def test_parse_formats_without_a_format_of_the_dtype_is_a_usage_error(formats: str) -> None:
    with raises(UsageError, where="--dtype", got="int8"):
        parse_formats(formats, Dtype.INT8)


@pytest.mark.unit
def test_parse_formats_without_packages_names_all_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.export.formats.find_spec", lambda name: None)
    with raises(UsageError, where="--formats litert,onnx") as caught:
        parse_formats("keras,litert,onnx", Dtype.FLOAT32)
    assert '"headstart[litert,onnx]"' in caught.value.advice


@pytest.mark.unit
def test_find_format_of_each_path_returns_its_format() -> None:
    assert {each: find_format(Path("a", info.path)) for each, info in FORMATS.items()} == {e: e for e in FORMATS}
    assert find_format(Path("a/model.pdf")) is None


@pytest.mark.unit
def test_export_names_of_the_formats_are_distinct() -> None:
    names = [name for info in FORMATS.values() for name in info.names]
    assert len(names) == len(set(names))
    assert set(names) < set(EXPORT_NAMES)
