"""Assert on errors by class and fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from base.errors import HeadstartError

Error = TypeVar("Error", bound=HeadstartError)


@contextmanager
def raises(kind: type[Error], **fields: object) -> Iterator[pytest.ExceptionInfo[Error]]:
    """Expect an error of exactly this class; the given fields (`where`, `got`, ...) must be equal as text."""
    with pytest.raises(kind) as caught:
        yield caught
    assert type(caught.value) is kind
    assert {name: str(getattr(caught.value, name)) for name in fields} == {k: str(v) for k, v in fields.items()}


def count_warnings(path: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Return the number of printed warnings about a file or folder; nothing else may be printed."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert all(line.startswith(f"warning: {path}: ") for line in lines)
    return len(lines)
