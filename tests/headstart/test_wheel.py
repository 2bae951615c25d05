"""The wheel alone: the README's script, the command and a type checker see what a user's installation has."""

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
from pathlib import Path

import pytest

from headstart.stub import FILE, format_stub
from tests.pictures import fill_folder

ROOT = Path(__file__).parents[2]
PACKAGES = ("base", "extract", "features", "headstart", "train_head")
SCRIPT = re.search(r"```python\n(import headstart.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and the packages it needs from this one; the checkout is not in it."""
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


def test_readme_script_goes_from_a_folder_to_predictions(installed: Path, tmp_path: Path) -> None:
    assert SCRIPT
    script = SCRIPT[1]
    assert len(script.splitlines()) <= 10
    fill_folder(tmp_path / "pictures", {"cats": 9, "dogs": 9})
    shutil.copy(tmp_path / "pictures/cats/000.jpg", tmp_path / "a.jpg")
    (tmp_path / "script.py").write_text(script.replace('weights="imagenet"', 'weights="random"'))
    done = run([installed, "script.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"a\.jpg (cats|dogs) [01]\.\d+", done.stdout)


def test_command_trains_and_predicts(installed: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path / "pictures", {"cats": 9, "dogs": 9})
    headstart = installed.with_name("headstart")
    steps = [
        "extract --images pictures --store store --weights random --image-size 75",
        "features info store",
        "train --store store --run run --epochs 2 --units 8",
        "export --run run --out model",
        "predict --model model/model.keras pictures",
    ]
    for step in steps:
        done = run([headstart, *step.split(), "--json"], tmp_path)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
    assert len(result["predictions"]) == 18


@pytest.mark.parametrize(
    ("arguments", "status"), [("", 0), ("--help", 0), ("--version", 0), ("trian --help", 2), ("train --help", 0)]
)
def test_command_exit_status(arguments: str, status: int, installed: Path, tmp_path: Path) -> None:
    done = run([installed.with_name("headstart"), *arguments.split()], tmp_path)
    assert done.returncode == status, done.stderr
    assert bool(done.stderr) == (status != 0)


def test_type_checker_accepts_right_calls_and_refuses_wrong_ones(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(
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
    (tmp_path / "wrong.py").write_text(
        'import headstart as hs\nhs.train("store", "run", dropuot=0.5)\nhs.train("store", "run", solver="fastest")\n'
    )
    mypy: list[str | Path] = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        installed,
        "--cache-dir",
        tmp_path / "c",
    ]
    right = run([*mypy, "right.py"], tmp_path)
    assert right.returncode == 0, right.stdout
    wrong = run([*mypy, "wrong.py"], tmp_path)
    assert wrong.stdout.count("wrong.py:2: error") == 1, wrong.stdout
    assert wrong.stdout.count("wrong.py:3: error") == 1, wrong.stdout


def test_stub_declares_the_options_of_today() -> None:
    assert FILE.read_text() == format_stub()
