"""Array jobs in docs/examples: their commands, with the variables that Slurm and Kubernetes set, extract all parts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import run_command
from tests.pictures import fill_folder

pytestmark = pytest.mark.usefixtures("small_backbone")

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
SBATCH, JOB = EXAMPLES / "parts.sbatch", EXAMPLES / "parts-job.yaml"
COUNT = 16
RECORD_ARGUMENTS = f"""#!{sys.executable}
import json, sys
print(json.dumps(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder `pictures` with 30 pictures, and `bin` with a `headstart` that prints its arguments."""
    folder = tmp_path_factory.mktemp("examples")
    fill_folder(folder / "pictures", {"cats": 15, "dogs": 15})
    (folder / "bin").mkdir()
    (folder / "bin/headstart").write_text(RECORD_ARGUMENTS)
    (folder / "bin/headstart").chmod(0o755)
    return folder


def record(command: list[str], folder: Path, **variables: object) -> list[str]:
    """Run a command of an example, and return the arguments of `headstart`."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path} | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    arguments: list[str] = json.loads(done.stdout)
    return arguments


def load_job() -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load(JOB.read_text())
    return job


def record_slurm(folder: Path) -> list[list[str]]:
    """Return the arguments of each task of the array."""
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", SBATCH.read_text(), re.MULTILINE))
    first, last = map(int, directives["array"].split("-"))
    shared: dict[str, object] = {"PICTURES": folder / "pictures", "STORES": folder / "slurm"}
    shared["SLURM_CPUS_PER_TASK"] = directives["cpus-per-task"]
    return [record(["bash", str(SBATCH)], folder, SLURM_ARRAY_TASK_ID=n, **shared) for n in range(first, last + 1)]


def record_kubernetes(folder: Path) -> list[list[str]]:
    """Return the arguments of each index of the job."""
    job = load_job()["spec"]
    (container,) = job["template"]["spec"]["containers"]
    command = [text.replace("/data/pictures", f"{folder}/pictures") for text in container["command"]]
    command = [text.replace("/data/stores", f"{folder}/slurm") for text in command]
    return [record(command, folder, JOB_COMPLETION_INDEX=index) for index in range(job["completions"])]


def test_slurm_job_extracts_each_part_once_and_the_parts_merge(folder: Path) -> None:
    small = ["--weights", "random", "--image-size", "75", "--cut", "mixed5", "-q"]
    commands = record_slurm(folder)
    parts = [command[command.index("--part") + 1] for command in commands]
    assert sorted(parts) == sorted(f"{number}/{COUNT}" for number in range(1, COUNT + 1))
    for command in reversed(commands):
        assert command[0] == "extract"
        assert run_command("extract.__main__", *command[1:], *small).status == 0
    stores = sorted((folder / "slurm").iterdir())
    result = run_command("features.__main__", "merge", *stores, "--into", folder / "store", "--json", "-q")
    assert (result.json["missing"], result.json["pictures"]) == ([], 30)


def test_kubernetes_job_runs_the_commands_of_the_slurm_job(folder: Path) -> None:
    assert record_kubernetes(folder) == record_slurm(folder)


@pytest.mark.unit
def test_kubernetes_job_is_an_indexed_job_of_as_many_indices_as_parts() -> None:
    job = load_job()
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", COUNT)
    # Both `backoffLimitPerIndex` and `podFailurePolicy` need this policy.
    assert pod["restartPolicy"] == "Never"
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"]]
