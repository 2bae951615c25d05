"""An npm that does what a test tells it to."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest


def install_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a shell script on the PATH as npm, before everything else; `$5` is the folder to pack into."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
