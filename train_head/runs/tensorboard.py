"""A run's history as TensorBoard reads it; written with TensorBoard's own records, without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from train_head.runs.read import Run
from train_head.runs.record import LOGS_FILE, LOGS_FOLDER, RUN_FILE
from train_head.runs.write import rewrite_run
from train_head.solvers.history import Epoch

_VERSION = "brain.Event:2"
"""What the first record of such a file says."""


def keep_logs(run: Run) -> None:
    """Add the logs to a run that has none yet.

    Raises:
        HeadstartError: there is no room, or the run cannot be read or is being written.
    """
    if (run.folder / LOGS_FOLDER).exists():
        return
    history, ended = run.read_history(), (run.folder / RUN_FILE).stat().st_mtime
    with rewrite_run(run) as folder:
        write_logs(folder / LOGS_FOLDER, history, ended)


def write_logs(folder: Path, history: Sequence[Epoch], ended: float) -> None:
    """Write the logs into a folder that is not there yet.

    Args:
        folder: the folder to make.
        history: the epochs.
        ended: when the last one ended, in seconds since 1970.
    """
    started = ended - sum(row.seconds for row in history)
    for name, scalars in list_scalars(history).items():
        (folder / name).mkdir(parents=True)
        write_events(folder / name / LOGS_FILE, history, scalars, started)


def list_scalars(history: Sequence[Epoch]) -> dict[str, dict[str, list[float]]]:
    """Lists what is logged: for each side, under names that both share, a value for each epoch."""
    return {
        "train": {"loss": [row.loss for row in history], "accuracy": [row.accuracy for row in history]},
        "validation": {"loss": [row.val_loss for row in history], "accuracy": [row.val_accuracy for row in history]},
    }


def write_events(path: Path, history: Sequence[Epoch], scalars: Mapping[str, Sequence[float]], started: float) -> None:
    """Writes one event file.

    Args:
        path: the file; TensorBoard finds it by `tfevents` in its name.
        history: says which epoch it was, and how long it took.
        scalars: for each name, a value for each epoch.
        started: when the first epoch began, in seconds since 1970.

    Source: TensorFlow's record format; `tensorboard.compat.proto.event_pb2`.
    """
    # `tensorboard.summary.Writer` would do the same, and import TensorFlow where that is installed.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=started, file_version=_VERSION).SerializeToString())
        ended = started
        for number, row in enumerate(history):
            ended += row.seconds
            values = [Summary.Value(tag=name, simple_value=series[number]) for name, series in scalars.items()]
            event = Event(wall_time=ended, step=row.epoch, summary=Summary(value=values))
            records.write(event.SerializeToString())
