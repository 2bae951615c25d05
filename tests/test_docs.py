"""Every command in the README runs, on a small folder of pictures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pictures import fill_folder

ROOT = Path(__file__).parents[1]
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's own files with a small folder of pictures in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("base", "extract", "features", "headstart", "train_head"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Makefile", folder)
    fill_folder(folder / "pictures", {"cats": 9, "dogs": 9})
    return folder


# In the README's order: each goes on with what the ones before it made.
@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "make test"])
def test_readme_command_runs(command: str, checkout: Path) -> None:
    # The demo's own pictures and weights take minutes and a network; the same targets run on these.
    given = {word.split("=")[0] for word in command.split() if "=" in word}
    small = {"DATA": "pictures", "WEIGHTS": "random", "EPOCHS": "2", "UNITS": "16"}
    overrides = [f"{name}={value}" for name, value in small.items() if name not in given]
    overrides += [f"BIN={Path(sys.executable).parent}", "RUNTIME=", "DEV="]
    done = subprocess.run(
        [*command.split(), *overrides],
        cwd=checkout,
        # A make around these tests hands its own variables on.
        env={name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_names_the_test_command_that_ci_runs() -> None:
    assert "make test" in COMMANDS
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_readme_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {command.split()[1] for command in COMMANDS} <= set(targets)
