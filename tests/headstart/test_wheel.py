"""The installed wheel: the script of the README, the command `headstart` and the types of the API."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from headstart.stub import FILE, format_stub
from tests.pictures import fill_folder

ROOT = Path(__file__).parents[2]
PACKAGES = ("base", "extract", "features", "headstart", "train_head")
SCRIPT = re.search(r"```python\n(import headstart.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment with the wheel and the installed dependencies, but without the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], check=True)
    shutil.rmtree(source)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    purelib = sysconfig.get_path("purelib", vars={"base": str(folder / "env")})
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    Path(purelib, "needed.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Work:
    """Folder in which the script of the README ran, and its output."""

    folder: Path
    output: str


@pytest.fixture(scope="session")
def work(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Result of the script of the README on small pictures: `work/store`, `work/run` and `work/model`."""
    assert SCRIPT
    script = SCRIPT[1]
    assert len(script.splitlines()) <= 10
    folder = tmp_path_factory.mktemp("readme")
    fill_folder(folder / "pictures", {"cats": 9, "dogs": 9})
    shutil.copy(folder / "pictures/cats/000.jpg", folder / "a.jpg")
    options = 'weights="random", image_size=75, cut="mixed0"'
    (folder / "script.py").write_text(script.replace('"work/store")', f'"work/store", {options})'))
    done = run([installed, "script.py"], folder)
    assert done.returncode == 0, done.stderr
    return Work(folder, done.stdout)


def test_readme_script_prints_a_prediction(work: Work) -> None:
    assert re.search(r"a\.jpg (cats|dogs) [01]\.\d+", work.output)


def test_commands_continue_the_work_of_the_script(work: Work, installed: Path, tmp_path: Path) -> None:
    headstart, results = installed.with_name("headstart"), []
    steps = [
        "extract --images pictures --store work/store --weights random --image-size 75 --cut mixed0",
        "features info work/store",
        f"train --store work/store --run {tmp_path}/run --epochs 2 --units 8",
    ]
    for step in steps:
        done = run([headstart, *step.split(), "--json"], work.folder)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert (results[0]["computed"], results[0]["reused"]) == (0, 18)
    assert results[2]["epochs"] == 2


@pytest.mark.parametrize(("arguments", "status"), [("--version", 0), ("trian --help", 2), ("train --help", 0)])
def test_command_exits_with_its_status(arguments: str, status: int, installed: Path, tmp_path: Path) -> None:
    done = run([installed.with_name("headstart"), *arguments.split()], tmp_path)
    assert done.returncode == status, done.stderr
    assert bool(done.stderr) == (status != 0)


def test_wheel_has_the_files_of_the_page(installed: Path, tmp_path: Path) -> None:
    code = "from train_head.serve.app import STATIC; print(*sorted(file.name for file in STATIC.iterdir()))"
    assert run([installed, "-c", code], tmp_path).stdout.split() == [
        "openapi.json",
        "page.css",
        "page.html",
        "page.js",
    ]


def test_type_checker_accepts_valid_calls_and_refuses_invalid_ones(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "valid.py").write_text(
        "from pathlib import Path\n"
        "import headstart as hs\n"
        'store = hs.extract("pictures", Path("store"), weights="imagenet", image_size=299, pool="avg")\n'
        'X, y = store.to_numpy(split="train")\n'
        'run = hs.train(store, "run", dropout=0.5, progress=lambda stage, done, total, rate: None)\n'
        "accuracy: float = run.accuracy\n"
        'best = hs.sweep(store, "sweep", dropout=[0, 0.2, 0.5]).best\n'
        'files: list[Path] = hs.export(best, "model").files\n'
        'labels: list[str] = [each.label for each in hs.predict(files[0], ["a.jpg"])]\n'
        'clf = hs.HeadClassifier(solver="reduced", units=1024).fit(X, y)\n'
        "try:\n    hs.report(run)\nexcept hs.HeadstartError as error:\n    print(error.advice)\n"
    )
    (tmp_path / "invalid.py").write_text(
        'import headstart as hs\nhs.train("store", "run", dropuot=0.5)\nhs.train("store", "run", solver="fastest")\n'
    )
    mypy: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed]
    mypy += ["--cache-dir", tmp_path / "cache"]
    checked = run([*mypy, "valid.py", "invalid.py"], tmp_path)
    errors = [line.rpartition(": error")[0] for line in checked.stdout.splitlines() if ": error" in line]
    assert errors == ["invalid.py:2", "invalid.py:3"], checked.stdout


@pytest.mark.unit
def test_stub_declares_all_current_options() -> None:
    assert FILE.read_text() == format_stub()
