"""Build the wheel and the source distribution of the checkout, and check them as a user would install them.

Both are built from a copy of the files that git tracks, so that a file of an earlier build cannot enter them. The
wheel is built from the source distribution.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from typer import Option

from base.command_line import CommandFailed, run_app
from base.terminal import Console, format_count
from release.contents import check_sdist, check_wheel, list_sdist, list_tracked, list_wheel
from release.install import UV, find_python, install_wheel, run_commands, write_sbom

ROOT = Path(__file__).parents[1]
PYTHONS = "3.11,3.12,3.13"
LOG_NAME = "release-check.log"


@dataclass(frozen=True)
class CheckConfig:
    """Options of the check."""

    out: Annotated[Path, Option(help="Folder for the wheel, the source distribution and the bill of materials.")] = (
        ROOT / "dist"
    )
    pythons: Annotated[
        str, Option(help="Versions of Python to install the wheel on, separated by commas.", metavar="LIST")
    ] = PYTHONS
    tag: Annotated[str, Option(help="Tag of the release, such as v0.1.0, which must fit the version.")] = ""


@dataclass
class Summary:
    """Results of the checks, one row each."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, result: str, problems: Sequence[str]) -> None:
        """Add a check: its result, or the number of its problems."""
        self.rows.append((name, format_count(len(problems), "problem") if problems else result))
        self.problems += problems


def check_release(config: CheckConfig, console: Console) -> Mapping[str, Any]:
    """Build the wheel and the source distribution, and check their files, their metadata and their installation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version, summary = str(project["version"]), Summary()
    config.out.mkdir(parents=True, exist_ok=True)
    log = config.out / LOG_NAME
    log.unlink(missing_ok=True)
    tracked = list_tracked(ROOT)
    wheel, sdist = build_distributions(tracked, config.out)
    summary.add("wheel", wheel.name, check_wheel(list_wheel(wheel), tracked, project["license-files"]))
    summary.add("source distribution", sdist.name, check_sdist(list_sdist(sdist), tracked))
    summary.add("metadata", "valid", check_metadata(wheel, sdist))
    changelog = (ROOT / "CHANGELOG.md").read_text()
    summary.add("changelog and tag", version, check_version(version, config.tag, changelog))
    sbom = config.out / f"headstart-{version}.cdx.json"
    sbom.unlink(missing_ok=True)
    for name in config.pythons.split(","):
        python = find_python(name)
        if python is None:
            summary.rows.append((f"Python {name}", "not checked: this version was not found"))
            continue
        console.info(f"Python {name}: install the wheel, and run its commands")
        with install_wheel(wheel, python, ROOT / "requirements.lock") as environment:
            summary.add(f"Python {name}", "installed, all commands passed", run_commands(environment, log))
            if not sbom.exists():
                write_sbom(environment, ROOT / "pyproject.toml", sbom)
    summary.add("bill of materials", sbom.name, [] if sbom.exists() else ["no version of Python was found"])
    console.show_table("release", summary.rows)
    for problem in summary.problems:
        console.warning(problem)
    result = {"version": version, "checks": dict(summary.rows), "problems": summary.problems}
    if summary.problems:
        raise CommandFailed(result, f"{format_count(len(summary.problems), 'problem')}; see {log}")
    return result


def build_distributions(tracked: Sequence[str], out: Path) -> tuple[Path, Path]:
    """Build the wheel and the source distribution from the files of the checkout, and return their paths."""
    for old in (*out.glob("headstart-*.whl"), *out.glob("headstart-*.tar.gz")):
        old.unlink()
    with TemporaryDirectory(prefix="headstart-release-") as folder:
        for name in tracked:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        subprocess.run([UV, "build", "--quiet", "--out-dir", out, folder], check=True)
    (wheel,), (sdist,) = out.glob("headstart-*.whl"), out.glob("headstart-*.tar.gz")
    return wheel, sdist


def check_metadata(*distributions: Path) -> list[str]:
    """Check that PyPI would accept the metadata of distributions; return the output of Twine if it would not."""
    twine: list[str | Path] = [sys.executable, "-m", "twine", "check", "--strict", *distributions]
    done = subprocess.run(twine, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line] if done.returncode else []


def check_version(version: str, tag: str, changelog: str) -> list[str]:
    """Compare a version with the tag of the release, if given, and with the headings of the changelog."""
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.MULTILINE)
    if not tag:
        return [] if headings else ["CHANGELOG.md has no version"]
    problems = [] if tag == f"v{version}" else [f"the tag {tag} does not fit version {version} of pyproject.toml"]
    if version not in [name for name, date in headings if date]:
        problems.append(f"CHANGELOG.md has no section for {version} with a date")
    return problems


def main() -> None:
    """Run the command and exit."""
    run_app(check_release, CheckConfig, "python -m release.check")


if __name__ == "__main__":
    main()
