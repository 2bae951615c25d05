"""Lines of shell in the pages: run in this process, or checked by the rule for what cannot be run in a test."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from base.arguments import parse_arguments
from base.commands import COMMANDS
from tests.commands import CommandResult, run_command
from tests.docs.blocks import ROOT
from tests.make import make
from tests.train_head.serve.servers import start_server

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def list_calls(words: list[str]) -> list[list[str]]:
    """List the arguments of Python in the commands that a make command runs in the working folder."""
    done = make(Path.cwd(), *words[1:], f"BIN={Path.cwd()}", "CONVERTERS=", "OPTUNA=")
    assert done.status == 0, f"{shlex.join(words)}: {done.err}"
    return done.calls


def to_module(words: list[str]) -> list[str]:
    """Return the module and the arguments of a command that starts with `headstart` or with `python -m`."""
    if words[0] == "headstart":
        assert words[1] in COMMANDS, f"unknown command: {shlex.join(words)}"
        return [COMMANDS[words[1]].module, *words[2:]]
    assert words[:2] == ["python", "-m"], f"no rule for: {shlex.join(words)}"
    spec = find_spec(words[2])
    assert spec, f"unknown module: {shlex.join(words)}"
    return [f"{words[2]}.__main__" if spec.submodule_search_locations else words[2], *words[3:]]


def list_commands(words: list[str]) -> list[list[str]]:
    """List the commands of a line: module and arguments of each."""
    calls = [["python", *call] for call in list_calls(words)] if words[0] == "make" else [words]
    found = [to_module(call) for call in calls]
    assert found, f"{shlex.join(words)} runs no command"
    return found


PLACES = {"STORE": "work/store", "s3://bucket/team/cats": "bucket/team/cats"}
"""Paths in place of those that a page leaves to the reader. A folder is a place for stores, as a bucket is."""


def split_line(line: str) -> list[str]:
    """Split a line into words, and expand its patterns of paths, as a shell does."""
    words = [PLACES.get(word, word) for word in shlex.split(line)]
    patterns = [word if "*" in word and f"'{word}'" not in line else "" for word in words]
    expanded = [sorted(map(str, Path().glob(pattern))) if pattern else [] for pattern in patterns]
    return [path for word, paths in zip(words, expanded, strict=True) for path in paths or [word]]


def run_line(line: str) -> Iterator[CommandResult]:
    """Run the commands of a line in this process."""
    for module, *arguments in list_commands(split_line(line)):
        # The package of the default pictures.
        if module != "extract.demo_data":
            yield run_command(module, *arguments)


def parse_line(line: str) -> None:
    """Parse the commands of a line with their command lines, without running them."""
    with mock.patch("base.command_line._call", return_value=mock.Mock(result={}, status=0, message="")):
        for module, *arguments in list_commands(split_line(line)):
            if module.startswith("benchmarks."):
                parse_arguments(find_benchmark_config(module), arguments, module)
            else:
                result = run_command(module, *arguments)
                assert result.status == 0, f"{line}: {result.err}"


def find_benchmark_config(module: str) -> type:
    """Find the options of a benchmark, which gives them to `run_app` at its end."""
    with (
        mock.patch("base.command_line.run_app") as run_app,
        # The module may be imported already.
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),
    ):
        runpy.run_module(module, run_name="__main__")
    config: type = getattr(import_module(module), run_app.call_args.args[1].__name__)
    return config


def check_install(line: str) -> None:
    """Check that the extras that pip is to install exist."""
    words = shlex.split(line)
    assert words[:2] == ["pip", "install"], line
    for word in words[2:]:
        found = re.fullmatch(r"(headstart|\.)(?:\[([\w,]+)\])?", word)
        assert found, line
        assert {*(found[2] or "").split(",")} - {""} <= EXTRAS.keys(), line


def check_target(line: str) -> None:
    """Check that the targets of a make command exist; make itself checks the variables."""
    words = shlex.split(line)
    for target in [word for word in words[1:] if "=" not in word]:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"unknown target: {line}"
    list_calls([*words, "-n"])


def check_sbatch(line: str) -> None:
    """Check the command that a job runs, with the variables of the page."""
    for command in re.findall(r'--wrap "(.*?)"', line):
        parse_line(command.replace("$STORES", "stores"))
    assert "sbatch" not in line or "--wrap" in line or (ROOT / "docs/examples" / line.split()[-1].rstrip(")")).exists()


def check_request(line: str) -> None:
    """Send the request of curl to a server on another port."""
    words = shlex.split(line)
    *options, url = words[1:]
    assert url == "http://127.0.0.1:8000/predict", line
    files = [(path, Path(path).read_bytes()) for path in re.findall(r"-F file=@(\S+)", line)]
    with start_server() as client:
        if files:
            assert options == [word for path, _ in files for word in ("-F", f"file=@{path}")], line
            answer = client.predict_form(files)
        else:
            binary, path, header, content_type = options
            name, kind = content_type.split(": ")
            assert (binary, header, name) == ("--data-binary", "-H", "Content-Type"), line
            answer = client.predict(Path(path.removeprefix("@")).read_bytes(), content_type=kind)
    assert (answer.status, len(answer.json["predictions"])) == (200, len(files) or 1), line


def check_module(line: str) -> None:
    """Check that a module of Python's library exists; it serves until it is ended."""
    assert import_module(shlex.split(line)[2]), line


@dataclass(frozen=True)
class Rule:
    """Lines that cannot be run in a test, and the check in its place."""

    pattern: str
    reason: str
    check: Callable[[str], None]


RULES = (
    Rule(r"pip install ", "needs a package index", check_install),
    Rule(r"make test\b", "is run by CI", check_target),
    Rule(r"make benchmark", "takes a quarter of an hour or more", check_target),
    Rule(r"python -m benchmarks\.", "takes minutes to hours", parse_line),
    Rule(r"headstart .*--distribute ", "starts Ray; see tests/extract/distribute", parse_line),
    Rule(r"headstart export .*--formats \S*web", "needs npm and Node.js; see test_web_node.py", parse_line),
    Rule(r"make (sweep .*unfreeze|train .*FINE_TUNE)", "retrains blocks, which fine-tuning.md does once", parse_line),
    Rule(r"(job=.*)?sbatch|export \w+=", "needs Slurm; see tests/test_examples.py", check_sbatch),
    Rule(r"curl ", "a server of this process answers", check_request),
    Rule(r"python -m http\.server", "serves until it is ended", check_module),
)


BEFORE = {
    "headstart features merge stores/part-* --into store": [
        f"headstart extract --images pictures --store stores/part-{part} --part {part}/16" for part in range(1, 17)
    ],
    "headstart predict --model work/model/model.onnx pictures --output-format jsonl": [
        "headstart export --run work/run --out work/model --formats keras,onnx"
    ],
}
"""Commands that a page describes in words, or on another page, and that a line needs."""


def find_rule(line: str) -> Rule | None:
    """Find the rule for a line; None if the line is run."""
    return next((rule for rule in RULES if re.match(rule.pattern, line)), None)
