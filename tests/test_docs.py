"""Each command in the README runs, on a small folder of pictures."""

from __future__ import annotations

import json
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
# The default pictures and weights take minutes and a network; the same targets run on these.
SMALL = {"DATA": "pictures", "WEIGHTS": "random", "IMAGE_SIZE": "75", "EPOCHS": "2", "UNITS": "16"}
RECORD_ARGUMENTS = f"""#!{sys.executable}
import json, sys
print("call:", json.dumps(sys.argv[1:]))
"""
# Runs the commands of standard input one after another, so that TensorFlow is imported once. Three small blocks replace
# InceptionV3, which takes seconds to build; tests/headstart/test_wheel.py runs the README's script on the whole of it.
RUN_ALL = """
import contextlib, importlib, io, json, sys
from importlib.util import find_spec
import keras
from base import process, streams

def build_small_backbone(input_shape, include_top, weights):
    outputs = inputs = keras.Input(input_shape)
    for number in (5, 6, 7):
        branches = [keras.layers.Conv2D(4, 3, strides=3, padding="same", use_bias=False)(outputs) for _ in range(2)]
        outputs = keras.layers.Concatenate(name=f"mixed{number}")(branches)
    return keras.Model(inputs, outputs)

keras.applications.InceptionV3 = build_small_backbone
process.leave = sys.exit
streams.protect_streams = lambda: None
for line in sys.stdin:
    statuses, output = [], io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        for _, module, *arguments in json.loads(line):
            sys.argv = [module, *arguments]
            is_package = find_spec(module).submodule_search_locations
            try:
                importlib.import_module(f"{module}.__main__" if is_package else module).main(module)
            except SystemExit as end:
                statuses.append(end.code)
    print("result:", json.dumps([statuses, output.buffer.getvalue().decode()]), flush=True)
"""


def list_calls(command: str, checkout: Path) -> list[list[str]]:
    """List the Python commands that a make command runs."""
    given = {word.split("=")[0] for word in command.split() if "=" in word}
    overrides = [f"{name}={value}" for name, value in SMALL.items() if name not in given]
    done = subprocess.run(
        [*command.split(), *overrides, f"BIN={checkout}", "RUNTIME=", "DEV="],
        cwd=checkout,
        # `make test` passes its own variables to the tests.
        env={name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("call: ")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[int], str]]:
    """Exit statuses and output of each command; a later command may need the files of an earlier one."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "python").write_text(RECORD_ARGUMENTS)
    (folder / "python").chmod(0o755)
    fill_folder(folder / "pictures", {"cats": 9, "dogs": 9})
    commands = [command for command in COMMANDS if command != "make test"]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input="".join(json.dumps(list_calls(command, folder)) + "\n" for command in commands),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line[8:]) for line in done.stdout.splitlines() if line.startswith("result: ")]
    assert len(lines) == len(commands), done.stderr
    return dict(zip(commands, lines, strict=True))


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "make test"])
def test_readme_command_succeeds(command: str, results: dict[str, tuple[list[int], str]]) -> None:
    statuses, output = results[command]
    assert statuses, "no Python command"
    assert set(statuses) == {0}, output


def test_readme_test_command_is_run_by_ci() -> None:
    assert "make test" in COMMANDS
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_readme_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {command.split()[1] for command in COMMANDS} <= set(targets)
