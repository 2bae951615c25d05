"""A run's history for TensorBoard, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train_head.runs.read import Run
from train_head.runs.record import LOGS_FILE, LOGS_FOLDER, RUN_FILE
from train_head.runs.write import rewrite_run
from train_head.solvers.history import Epoch

_VERSION = "brain.Event:2"
"""Content of the first record of an event file."""
_SCALARS = {
    "train": {"loss": "loss", "accuracy": "accuracy"},
    "validation": {"loss": "val_loss", "accuracy": "val_accuracy"},
}
"""Tags of each side, and the field of an epoch that each shows."""


def add_logs(run: Run) -> None:
    """Add the logs to a run that has none yet; raise HeadstartError where the run cannot be rewritten."""
    if (run.folder / LOGS_FOLDER).exists():
        return
    history, ended = run.read_history(), (run.folder / RUN_FILE).stat().st_mtime
    with rewrite_run(run) as folder:
        write_logs(folder / LOGS_FOLDER, history, ended)


def write_logs(folder: Path, history: Sequence[Epoch], ended: float) -> None:
    """Write an event file for each side, of epochs of which the last ended at a time in seconds since 1970.

    Source: TensorFlow's record format; `tensorboard.compat.proto.event_pb2`.
    """
    # `tensorboard.summary.Writer` would do the same, and import TensorFlow where that is installed.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    for side, columns in _SCALARS.items():
        (folder / side).mkdir(parents=True)
        with (folder / side / LOGS_FILE).open("wb") as file:
            records = RecordWriter(file)
            now = ended - sum(row.seconds for row in history)
            records.write(Event(wall_time=now, file_version=_VERSION).SerializeToString())
            for row in history:
                now += row.seconds
                values = [Summary.Value(tag=tag, simple_value=getattr(row, name)) for tag, name in columns.items()]
                event = Event(wall_time=now, step=row.epoch, summary=Summary(value=values))
                records.write(event.SerializeToString())
