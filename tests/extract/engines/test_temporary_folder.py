"""Conversions that need a temporary folder, on a full disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import HeadstartError
from extract.engines.openvino import import_openvino, read_graph
from extract.engines.quantize import _serialize
from tests.errors import raises
from tests.files import limit_file_size


class _Graph:
    """Graph that is larger than the limit."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        return bytes(2000)


def build_model() -> Any:
    openvino = import_openvino()
    from openvino import opset13

    inputs = opset13.parameter([1, 1000], np.float32)
    return openvino.Model([opset13.add(inputs, opset13.constant(np.arange(1000, dtype=np.float32)))], [inputs])


@pytest.fixture
def full_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Temporary folder for files of at most 1,000 bytes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with limit_file_size(1000):
        yield tmp_path


@pytest.mark.parametrize("convert", [lambda: read_graph(None, _Graph()), lambda: _serialize(build_model())])
def test_conversion_with_a_full_temporary_folder_is_an_error_about_this_folder(full_folder: Path, convert: Any) -> None:
    with raises(HeadstartError, where=str(full_folder)):
        convert()
    assert list(full_folder.iterdir()) == []
