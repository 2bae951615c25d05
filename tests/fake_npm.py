"""Shell script in place of npm."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest


def install_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script first on the PATH as npm; `$5` is the folder that `npm pack` writes to."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
