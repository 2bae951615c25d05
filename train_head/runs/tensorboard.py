"""TensorBoard logs of a run's history, written without TensorFlow."""

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
"""Tags of the training and the validation log, each with the field of `Epoch` that it contains."""


def add_logs(run: Run) -> None:
    """Add logs to a run unless it has some; raise HeadstartError if the run cannot be rewritten."""
    if (run.folder / LOGS_FOLDER).exists():
        return
    history, ended = run.read_history(), (run.folder / RUN_FILE).stat().st_mtime
    with rewrite_run(run) as folder:
        write_logs(folder / LOGS_FOLDER, history, ended)


def write_logs(folder: Path, history: Sequence[Epoch], ended: float) -> None:
    """Write one event file for training and one for validation.

    The file format is TensorFlow's record format with the messages of `tensorboard.compat.proto.event_pb2`.

    Args:
        folder: folder to create.
        history: the epochs.
        ended: time at which the last epoch ended, in seconds since 1970.
    """
    # `tensorboard.summary.Writer` would import TensorFlow.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    for split, columns in _SCALARS.items():
        (folder / split).mkdir(parents=True)
        with (folder / split / LOGS_FILE).open("wb") as file:
            records = RecordWriter(file)
            now = ended - sum(row.seconds for row in history)
            records.write(Event(wall_time=now, file_version=_VERSION).SerializeToString())
            for row in history:
                now += row.seconds
                values = [Summary.Value(tag=tag, simple_value=getattr(row, name)) for tag, name in columns.items()]
                event = Event(wall_time=now, step=row.epoch, summary=Summary(value=values))
                records.write(event.SerializeToString())
