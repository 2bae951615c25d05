"""The folder of a run: foreign files, concurrent commands, interruptions at any step, read-only places."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError, TargetLockedError, UsageError
from base.terminal import Console
from features.catalog.catalog import Catalog
from features.catalog.locations import Locations
from features.store import FeatureStore
from tests.commands import run_command
from tests.errors import raises
from tests.files import read_files
from tests.train_head.fits import InterruptingConsole
from tests.train_head.synthetic import add_picture
from tests.train_head.training import ROOT, make_config
from train_head.config import ReportConfig
from train_head.report.page import report_fitted_run, write_report
from train_head.report.sources import load_sources
from train_head.runs.read import Run
from train_head.runs.tensorboard import add_logs
from train_head.solvers.network import Batch, HeadTrainer
from train_head.train import train_head


class Killed(BaseException):
    """Simulated SIGKILL, which no other code catches."""


def record_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each training step of the reduced solver is added."""
    taken: list[int] = []
    train_on_batch = HeadTrainer.train_on_batch

    def train_on_counted_batch(stepper: HeadTrainer, batch: Batch) -> tuple[float, int]:
        taken.append(stepper.num_steps)
        return train_on_batch(stepper, batch)

    monkeypatch.setattr(HeadTrainer, "train_on_batch", train_on_counted_batch)
    return taken


@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
def test_train_interrupted_during_evaluation_resumes_without_fitting_again(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    config = make_config(noisy, tmp_path / "run", no_report=False)

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("train_head.train.evaluate_head", fail)
        with pytest.raises(error):
            train_head(config, quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-run"]
    taken = record_steps(monkeypatch)
    metrics = train_head(config, quiet)
    assert taken == []
    assert Run(config.run).read_metrics() == metrics
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_command_interrupted_after_the_fit_keeps_it(two_classes: FeatureStore, tmp_path: Path) -> None:
    code = (
        "import signal, sys, runpy\n"
        "import train_head.train\n"
        "train_head.train.evaluate_head = lambda *_: signal.pause()\n"
        "sys.argv = ['train_head', *sys.argv[1:]]\n"
        "runpy.run_module('train_head', run_name='__main__', alter_sys=True)"
    )
    options = ["--solver", "reduced", "--epochs", "3", "--units", "4"]
    paths = ["--store", str(two_classes.path), "--run", str(tmp_path / "run")]
    command = [sys.executable, "-c", code, *paths, *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("validation accuracy"):
                process.send_signal(signal.SIGINT)
        assert process.wait() != 0
    assert [path.name for path in tmp_path.iterdir()] == [".checkpoint-run"]
    done = run_command("train_head.__main__", *paths, *options, "--no-report", "--json")
    assert done.status == 0
    assert done.json["head"] == Run(tmp_path / "run").record.head


@pytest.mark.parametrize("broken", ["train_head.train.evaluate_head", "train_head.evaluation.plots.draw_curves"])
def test_train_with_failing_evaluation_or_plot_warns_and_writes_run(
    two_classes: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("cause of failure")

    monkeypatch.setattr(broken, fail)
    config = make_config(two_classes, tmp_path / "run", no_report=False)
    metrics = train_head(config, quiet)
    assert Run(config.run).read_metrics() == metrics
    assert "cause of failure" in capsys.readouterr().err


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.unit
def test_train_over_foreign_run_json_fails_before_the_fit(
    two_classes: FeatureStore, tmp_path: Path, overwrite: bool
) -> None:
    run = tmp_path / "proj"
    run.mkdir()
    (run / "run.json").write_text('{"mine": 1}')
    (run / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(run)
    before = read_files(run)
    for place in (run, tmp_path / "link"):
        console = InterruptingConsole(0)
        with pytest.raises(HeadstartError):
            train_head(make_config(two_classes, place, overwrite=overwrite), console)
        assert console.num_epochs == 0
    assert read_files(run) == before


@pytest.mark.parametrize("name", ["metrics.json", "head.npz", "tensorboard/notes.txt"])
@pytest.mark.unit
def test_train_into_folder_with_foreign_files_named_like_run_files_fails(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, name: str
) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(HeadstartError):
        train_head(make_config(two_classes, tmp_path / "run", overwrite=True), quiet)
    assert read_files(tmp_path / "run") == {name: b"mine"}


@pytest.mark.unit
def test_train_with_overwrite_leaves_user_files_and_folders(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    train_head(config, quiet)
    (config.run / "notes.txt").write_text("mine")
    (config.run / "model").mkdir()
    (config.run / "model" / "model.keras").write_text("mine")
    train_head(replace(config, units=9, overwrite=True), quiet)
    found = read_files(config.run)
    assert (found["notes.txt"], found["model/model.keras"]) == (b"mine", b"mine")
    assert Run(config.run).record.config["units"] == 9


@pytest.mark.unit
def test_train_with_overwrite_replaces_read_only_run(two_classes: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_config(two_classes, tmp_path / "run")
    train_head(config, quiet)
    config.run.chmod(0o555)
    train_head(replace(config, units=9, overwrite=True), quiet)
    assert Run(config.run).record.config["units"] == 9
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.unit
def test_train_during_another_training_of_the_run_fails_and_first_completes(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    refused = []

    def train_too(_: object) -> None:
        with raises(TargetLockedError, where=config.run):
            train_head(replace(config, units=9), InterruptingConsole(0))
        refused.append(True)

    train_head(config, quiet, None, train_too)
    assert len(refused) == config.epochs
    assert Run(config.run).read_head().input_bias.shape == (8,)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("number", range(12))
def test_train_killed_while_replacing_a_run_leaves_one_complete_run(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    config = make_config(two_classes, tmp_path / "run", epochs=2)
    train_head(config, quiet)
    other = replace(config, units=9, overwrite=True)
    left = [number]
    with monkeypatch.context() as patch:
        for module, name in ((os, "rename"), (os, "rmdir"), (os, "replace")):
            real = getattr(module, name)

            def change(*arguments: Any, real: Any = real, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*arguments, **options)

            patch.setattr(module, name, change)
        with contextlib.suppress(Killed):
            train_head(other, quiet)
    run = Run(config.run)
    run.check_files()
    assert run.read_head().input_bias.shape == (run.record.config["units"],)
    train_head(other, quiet)
    assert Run(config.run).record.config["units"] == 9
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.unit
def test_train_into_the_root_folder_fails(two_classes: FeatureStore, quiet: Console) -> None:
    with raises(UsageError, where="/"):
        train_head(make_config(two_classes, Path("/")), quiet)


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs Linux")
@pytest.mark.parametrize("kind", ["mount point", "read-only"])
def test_train_into_mount_point_works_and_into_read_only_folder_fails_before_the_fit(
    two_classes: FeatureStore, tmp_path: Path, kind: str
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    script = 'mount -t tmpfs tmpfs "$0"'
    run = mount
    if kind == "read-only":
        script, run = 'mount --bind -o ro "$0" "$0" && mount -o remount,bind,ro "$0"', mount / "run"
    options = f"--store {two_classes.path} --run {run} --solver reduced --epochs 2 --units 4 --no-report --json"
    train = f"{sys.executable} -m train_head {options}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{script} && {train} && {train} --units 5 && ls "$0"/*', str(mount)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr.startswith(("unshare", "mount:")):
        pytest.skip(f"mount namespaces are not available: {done.stderr}")
    if kind == "read-only":
        assert done.returncode == 1
        error = json.loads(done.stdout)
        assert error["where"] == str(run)
        assert "epochs" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("head.npz") == 2


def test_report_of_run_works_after_pictures_were_added_and_relabelled(
    own_store: Path, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(own_store, tmp_path / "run")
    train_head(config, quiet)
    before = Run(config.run).read_examples()
    add_picture(own_store)
    catalog = Catalog(own_store / "catalog.sqlite", writable=True)
    images = catalog.read_images()
    catalog.write_images([images[0]._replace(label="dogs", path="train/dogs/moved.jpg")])
    catalog.close()
    sources = load_sources(ReportConfig(config.run))
    assert {example.path for example in sources.split.train} == {e.path for e in before if e.split == "train"}
    assert write_report(sources, quiet).is_file()


@pytest.mark.unit
def test_find_split_with_lost_shard_names_it(own_store: Path, tmp_path: Path, quiet: Console) -> None:
    train_head(make_config(own_store, tmp_path / "run"), quiet)
    run, store = Run(tmp_path / "run"), FeatureStore(own_store)
    lost = store.shards[0]
    kept = {key: place for key, place in store.contents.locations.items() if place.shard != lost.number}
    store.contents = replace(store.contents, locations=Locations.collect(kept))
    with pytest.raises(HeadstartError) as raised:
        run.find_split(store)
    assert str(raised.value.where).endswith(lost.name)


def test_derived_files_of_a_run_cannot_be_written_during_training(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run", no_report=False)
    train_head(config, quiet)
    sources = load_sources(ReportConfig(config.run))

    def derive(_: object) -> None:
        with pytest.raises(TargetLockedError):
            write_report(sources, quiet)
        with pytest.raises(TargetLockedError):
            add_logs(sources.run)

    train_head(replace(config, epochs=1, units=9), quiet, None, derive)
    # The report of a run that has been replaced is not written either.
    with pytest.raises(HeadstartError):
        write_report(sources, quiet)
    assert report_fitted_run(replace(config, epochs=1, units=9), quiet) == config.run / "report.html"
