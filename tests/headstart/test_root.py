"""`headstart` without a subcommand: help, versions, and completion in the shell."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from base.arguments import parse_arguments
from base.commands import COMMANDS, find_command, import_config, import_function, list_configs
from base.help import read_docstring
from tests.systems import needs_posix

ROOT = Path(__file__).parents[2]


def test_versions_are_printed_without_importing_tensorflow() -> None:
    code = "import sys; sys.argv = ['headstart', '--version', '--json']\nfrom headstart.cli import main\n"
    code += "import base.process\nbase.process.exit_process = lambda status: print('tensorflow' in sys.modules, status)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nmain()"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert f'"keras": "{version("keras")}"' in done.stdout
    assert done.stdout.endswith("False 0\n")


@pytest.mark.unit
@pytest.mark.parametrize(("name", "place"), list(list_configs()))
def test_list_configs_finds_the_function_and_the_options_of_each_command(name: str, place: str) -> None:
    module = COMMANDS[name.split()[0]].runnable
    assert import_config(place).__name__ == place.partition(":")[2]
    assert callable(import_function(name))
    for program in (
        f"headstart {name}",
        f"python -m headstart {name}",
        " ".join(["python -m", module, *name.split()[1:]]),
    ):
        assert find_command(program) == name


@pytest.mark.unit
@pytest.mark.parametrize(("name", "place"), list(list_configs()))
def test_each_command_has_examples_with_valid_arguments(name: str, place: str) -> None:
    _, examples = read_docstring(import_function(name))
    assert examples
    for line in examples:
        words = shlex.split(line)
        known = {key: config for key, config in list_configs() if words[1:][: len(key.split())] == key.split()}
        command = max(known, key=len)
        assert command.startswith(name)
        arguments = [word for word in words[1 + len(command.split()) :] if word != "--json"]
        parse_arguments(import_config(known[command]), arguments, command)


@pytest.mark.unit
def test_modules_of_commands_import_no_large_package() -> None:
    code = f"""import importlib, sys
for module in {sorted({command.module for command in COMMANDS.values()})}:
    importlib.import_module(module)
print(*{{"numpy", "h5py", "rich.console", "tensorflow"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "\n"


@pytest.mark.unit
def test_find_command_of_another_program_is_empty() -> None:
    assert find_command("python -m benchmarks.epoch") == ""


COMPLETIONS = [
    (["features", "p"], {"pack", "prune", "push", "pull"}),
    (["extract", "s"], {"summary"}),
    (["extract", "summary", "--c"], {"--cut"}),
    (["train", "--solver", "r"], {"reduced", "ridge"}),
    # The shell completes paths itself.
    (["train", "--store", "wor"], set()),
]


@needs_posix
def test_completion_in_bash_lists_commands_options_and_values(tmp_path: Path) -> None:
    program = tmp_path / "headstart"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c \'import sys; sys.argv[0] = "headstart"; from headstart.cli import main; '
        'main()\' "$@"\n'
    )
    program.chmod(0o755)
    lines = [
        f"COMP_WORDS=(headstart {' '.join(words)}); COMP_CWORD={len(words)}; COMPREPLY=(); "
        '_headstart_completion headstart; echo "${COMPREPLY[@]}"'
        for words, _ in COMPLETIONS
    ]
    script = "\n".join(['eval "$(headstart --show-completion bash)"', *lines])
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    assert [set(line.split()) for line in done.stdout.split("\n")[:-1]] == [expected for _, expected in COMPLETIONS]
