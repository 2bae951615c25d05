"""Where a run goes: what is not ours stays, one command at a time, and finished work is not lost."""

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
from features.store import FeatureStore
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
    """Stands for SIGKILL: nothing else catches it."""


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    taken: list[int] = []
    train_on_batch = HeadTrainer.train_on_batch

    def train_on_counted_batch(stepper: HeadTrainer, batch: Batch) -> tuple[float, int]:
        taken.append(stepper.num_steps)
        return train_on_batch(stepper, batch)

    monkeypatch.setattr(HeadTrainer, "train_on_batch", train_on_counted_batch)
    return taken


@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
def test_train_interrupted_while_metrics_are_computed_goes_on_without_another_fit(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    config = make_config(noisy, tmp_path / "run", no_report=False)

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("train_head.train.evaluate", fail)
        with pytest.raises(error):
            train_head(config, quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-run"]
    taken = count_steps(monkeypatch)
    metrics = train_head(config, quiet)
    assert taken == []
    assert Run(config.run).read_metrics() == metrics
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_command_interrupted_after_its_answer_keeps_the_fit(two_classes: FeatureStore, tmp_path: Path) -> None:
    code = (
        "import signal, sys, runpy\n"
        "import train_head.train as t\n"
        "evaluate = t.evaluate\n"
        "def wait(*a):\n    signal.pause()\n"
        "t.evaluate = wait\n"
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
    done = subprocess.run(
        [sys.executable, "-m", "train_head", *paths, *options, "--json"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["head"] == Run(tmp_path / "run").record.head


@pytest.mark.parametrize("broken", ["train_head.train.evaluate", "train_head.evaluation.plots.draw_curves"])
def test_train_whose_evaluation_or_plot_fails_warns_and_keeps_the_run(
    two_classes: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a colour that there is not")

    monkeypatch.setattr(broken, fail)
    config = make_config(two_classes, tmp_path / "run", no_report=False)
    metrics = train_head(config, quiet)
    assert Run(config.run).read_metrics() == metrics
    assert "a colour that there is not" in capsys.readouterr().err


@pytest.mark.parametrize("overwrite", [False, True])
def test_train_over_a_folder_with_a_foreign_run_json_is_refused_before_the_fit(
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
    assert read_folder(run) == before


@pytest.mark.parametrize("name", ["metrics.json", "head.npz", "tensorboard/notes.txt"])
def test_train_into_a_folder_with_files_of_a_runs_names_alone_is_refused(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, name: str
) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(HeadstartError):
        train_head(make_config(two_classes, tmp_path / "run", overwrite=True), quiet)
    assert read_files(tmp_path / "run") == {name: b"mine"}


def test_train_overwriting_a_run_leaves_the_users_files_and_folders(
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


def test_train_overwriting_a_read_only_run_replaces_it(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    train_head(config, quiet)
    config.run.chmod(0o555)
    train_head(replace(config, units=9, overwrite=True), quiet)
    assert Run(config.run).record.config["units"] == 9
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_while_another_trains_the_run_is_refused_and_the_first_is_whole(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    refused = []

    def train_too(_: object) -> None:
        with pytest.raises(TargetLockedError) as raised:
            train_head(replace(config, units=9), InterruptingConsole(0))
        refused.append(raised.value.where)

    train_head(config, quiet, None, train_too)
    assert refused == [config.run] * config.epochs
    assert Run(config.run).read_head().hidden_bias.shape == (8,)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("number", range(12))
def test_train_killed_at_any_step_of_the_exchange_leaves_one_whole_run_and_the_next_goes_on(
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
    assert run.read_head().hidden_bias.shape == (run.record.config["units"],)
    train_head(other, quiet)
    assert Run(config.run).record.config["units"] == 9
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_into_the_root_is_wrong_usage(two_classes: FeatureStore, quiet: Console) -> None:
    with pytest.raises(UsageError):
        train_head(make_config(two_classes, Path("/")), quiet)


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs Linux")
@pytest.mark.parametrize("kind", ["mount point", "read-only"])
def test_train_into_a_mount_point_works_and_into_a_read_only_place_is_refused_before_the_fit(
    two_classes: FeatureStore, tmp_path: Path, kind: str
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    script = 'mount -t tmpfs tmpfs "$0"'
    run = mount
    if kind == "read-only":
        script, run = 'mount --bind -o ro "$0" "$0" && mount -o remount,bind,ro "$0"', mount / "run"
    options = f"--store {two_classes.path} --run {run} --solver reduced --epochs 2 --units 4 --no-report"
    train = f"{sys.executable} -m train_head {options}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{script} && {train} && {train} --units 5 && ls "$0"/*', str(mount)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr.startswith(("unshare", "mount:")):
        pytest.skip(f"no mount namespace here: {done.stderr}")
    if kind == "read-only":
        assert done.returncode == 1
        assert str(run) in done.stderr
        assert "validation accuracy" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("head.npz") == 2


def test_report_of_a_run_stays_possible_after_pictures_were_added_relabelled_and_removed(
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


def test_find_split_with_a_lost_shard_names_it(own_store: Path, tmp_path: Path, quiet: Console) -> None:
    train_head(make_config(own_store, tmp_path / "run"), quiet)
    run, store = Run(tmp_path / "run"), FeatureStore(own_store)
    lost = store.shards[0]
    for key in [key for key, place in store.contents.locations.items() if place.shard == lost.number]:
        del store.contents.locations[key]
    with pytest.raises(HeadstartError) as raised:
        run.find_split(store)
    assert str(raised.value.where).endswith(lost.name)


def test_derived_files_of_a_run_are_refused_while_it_is_written(
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
    # Of a run that is another by now, nothing is written either.
    with pytest.raises(HeadstartError):
        write_report(sources, quiet)
    assert report_fitted_run(replace(config, epochs=1, units=9), quiet) == config.run / "report.html"
