"""Install a wheel into an empty environment of a version of Python, and run its commands outside the checkout."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from headstart.doctor.trial import draw_pictures

UV = Path(sys.executable).with_name("uv")
COMMANDS = (
    "--version",
    "doctor",
    "demo --images pictures --weights random --out work --extract '--image-size 75 --cut mixed0' --train '--epochs 3'",
    "predict --model work/model pictures/train/red",
    "prune work",
)
"""Commands that are run with the installed wheel, without a network."""


def find_python(version: str) -> Path | None:
    """Find the interpreter of a version such as `3.12`, on the search path or among those of pyenv."""
    folders = map(Path, os.environ.get("PATH", "").split(os.pathsep))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    installed = sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)
    for path in (*(folder / f"python{version}" for folder in folders), *installed):
        if path.is_file() and _read_version(path) == version:
            return path
    return None


def _read_version(python: Path) -> str:
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    try:
        # A shim of pyenv fails for a version that is not selected.
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


@contextmanager
def install_wheel(wheel: Path, python: Path, constraints: Path) -> Iterator[Path]:
    """Install a wheel into a temporary environment, and yield the folder of the environment.

    Args:
        wheel: the wheel.
        python: interpreter of the environment.
        constraints: file with the versions of the requirements.
    """
    with TemporaryDirectory(prefix="headstart-release-") as folder:
        environment = Path(folder, "environment")
        subprocess.run([UV, "venv", "--quiet", "--python", python, environment], check=True)
        install: list[str | Path] = [
            UV,
            "pip",
            "install",
            "--quiet",
            "--python",
            environment,
            "--constraint",
            constraints,
            wheel,
        ]
        subprocess.run(install, check=True)
        yield environment


def run_commands(environment: Path, log: Path) -> list[str]:
    """Run the commands of an installed wheel on generated pictures; return a line for each that fails.

    Args:
        environment: folder of the environment.
        log: file to which the output of the commands is added.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MAKE"))}
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    problems = []
    with TemporaryDirectory(prefix="headstart-release-") as folder, log.open("a") as output:
        draw_pictures(Path(folder, "pictures"))
        for command in COMMANDS:
            print(f"$ headstart {command}", file=output, flush=True)
            done = subprocess.run(
                [scripts / "headstart", *shlex.split(command)],
                cwd=folder,
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode:
                problems.append(f"headstart {command}: exit status {done.returncode}")
    return problems


def write_sbom(environment: Path, project: Path, path: Path) -> None:
    """Write the packages of an environment as a software bill of materials, in CycloneDX's JSON format."""
    program = Path(sys.executable).with_name("cyclonedx-py")
    options: list[str | Path] = [
        "--pyproject",
        project,
        "--mc-type",
        "application",
        "--output-reproducible",
        "--output-file",
        path,
    ]
    subprocess.run([program, "environment", *options, environment], check=True)
