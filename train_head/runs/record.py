"""Record of a run, stored in run.json: its options, its store and the digests of its files, without local paths."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from base.errors import HeadstartError, UsageError
from base.files import PARTIAL_PREFIX, read_regular_file
from base.invocation import suggest_beside
from base.options import convert_value, list_options
from base.replace import recover_target
from base.target import Names, Target
from base.typed import check_type
from features.options import EXAMPLES_FILE as EXAMPLES_FILE
from train_head.config import TrainConfig

RUN_FILE, METRICS_FILE, HISTORY_FILE = "run.json", "metrics.json", "history.csv"
PREDICTIONS_FILE = "predictions.csv"
CURVES_FILE, REPORT_FILE = "curves.png", "report.html"
HEAD_FILE, LOGITS_FILE, REDUCTION_FILE = "head.npz", "validation_logits.npy", "reduction.npz"
OUTLIERS_FILE = "outliers.npz"
PROBABILITIES_FILE = "validation_probabilities.npy"
"""Name of the file with the probabilities of all classes, if they are too many for columns of predictions.csv."""
LABEL_ISSUES_FILE = "label_issues.csv"
"""Name of the table of labels to check, which is written with the report."""
LOCAL_FILE = "local.json"
"""Name of the file with paths of this machine. Reports need these paths; exports never contain them."""
LOGS_FOLDER, LOGS_FILE = "tensorboard", "events.out.tfevents.0.headstart"
MAX_JSON_BYTES = 2**26
DATA_FILES = {
    HEAD_FILE: 2**32,
    REDUCTION_FILE: 2**32,
    LOGITS_FILE: 2**30,
    OUTLIERS_FILE: 2**30,
    METRICS_FILE: MAX_JSON_BYTES,
    HISTORY_FILE: 2**26,
    EXAMPLES_FILE: 2**29,
    PREDICTIONS_FILE: 2**29,
    PROBABILITIES_FILE: 2**34,
}
"""Files whose digests run.json contains, with the largest allowed size of each in bytes."""
RUN_ENTRIES: Names = {
    **dict.fromkeys((RUN_FILE, *DATA_FILES, CURVES_FILE, LOCAL_FILE)),
    **{prefix + name: None for name in (REPORT_FILE, LABEL_ISSUES_FILE) for prefix in ("", PARTIAL_PREFIX)},
    LOGS_FOLDER: {"train": {LOGS_FILE: None}, "validation": {LOGS_FILE: None}},
}
"""All entries that a run's folder may contain."""
RUN_VERSION = 3
PATH_OPTIONS = ("store", "run", "weights", "images")
"""Options that are paths and do not affect the head."""
UNRECORDED_OPTIONS = (*PATH_OPTIONS, "preset", "distribute")
"""Options that a run does not record. The options that a preset sets are recorded."""
BEST_FOLDER, TABLE_FILE, PLOT_FILE = "best", "sweep.csv", "sweep.png"
COMPARISON_FILE, WITHOUT_DROPOUT, WITH_DROPOUT = "compare.png", "without-dropout", "with-dropout-"
DEFAULTS = {option.name: option.default for option in fields(TrainConfig) if option.default is not MISSING} | {
    "views": 1
}
"""Values of options that an older run does not record."""

_OPTION = "`run` folder"
_Positive = Annotated[int, (1, math.inf)]
_PositiveFloat = Annotated[float, (sys.float_info.min, sys.float_info.max)]
_ADDED: dict[str, object] = {"temperature": 1.0, "scales": [], "is_multi_label": False}
"""Defaults of the fields of version 3: with these values they are left out of the digest, as in older records."""


@dataclass(frozen=True)
class RunRecord:
    """Record of a run: how it was fitted, and the digests of its files."""

    config: dict[str, Any]
    """Training options, without paths."""
    solver: str
    store: str
    """Path of the store relative to the run's folder, or its name alone; an absolute path in version 1."""
    fingerprint: str
    feature_shape: list[_Positive]
    classes: list[str]
    split_rule: str
    images: str = ""
    """Name of the folder of the pictures."""
    weights: str = ""
    """Name of the backbone's weights; for a file, its name without the folder."""
    weights_sha256: str = ""
    created: str = ""
    """Time at which the fit ended, in UTC: `2026-11-25T14:03:27+00:00`."""
    head: str = ""
    """SHA-256 of head.npz; equal heads have equal digests."""
    reduction: str = ""
    """Key of the reduction that gives the head's inputs; empty for a head on all inputs."""
    rank: _Positive | None = None
    """Number of inputs requested from the reduction."""
    temperature: _PositiveFloat = 1.0
    """Divisor of the logits that calibrates the probabilities."""
    scales: list[_PositiveFloat] = field(default_factory=list)
    """Factor of the features of each cut layer, if the head was fitted on several; else empty."""
    is_multi_label: bool = False
    """Whether a picture has any number of the classes, instead of one."""
    views_sha256: str = ""
    """SHA-256 over the views of the training examples; empty if only view 0 is used."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each data file, with file names as keys; empty in version 1."""
    digest: str = ""
    """SHA-256 over the other fields, which include the digests of all data files; empty in version 1."""
    run_version: _Positive = RUN_VERSION

    def compute_digest(self) -> str:
        """Compute the digest over all other fields."""
        values = asdict(replace(self, digest=""))
        values = {name: value for name, value in values.items() if name not in _ADDED or value != _ADDED[name]}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def format(self) -> bytes:
        """Format run.json, including its digest."""
        return (json.dumps(asdict(replace(self, digest=self.compute_digest())), indent=2) + "\n").encode()


def read_record(folder: Path, *, checks_digest: bool = True) -> RunRecord:
    """Complete an interrupted replacement of the folder, if any, and read run.json.

    Raises:
        HeadstartError: the folder holds no run, the run has a newer version, or run.json was edited.
    """
    path = folder / RUN_FILE
    if not path.is_symlink() and not path.exists():
        recover_run(folder)
    try:
        record = _parse_record(read_regular_file(path, MAX_JSON_BYTES))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        got = f"no readable {RUN_FILE} ({reason or type(error).__name__})"
        beside = suggest_beside(folder, RUN_FILE, "RUN") or ", or give the folder of a run"
        raise HeadstartError(folder, "a run", got, f"Train first{beside}") from error
    if record.run_version > RUN_VERSION:
        expected, got = f"run version {RUN_VERSION} or older", f"version {record.run_version}"
        raise HeadstartError(folder, expected, got, "Use a newer version of Headstart")
    if checks_digest and record.run_version > 1 and record.digest != record.compute_digest():
        advice = "Restore the file, or train again with `overwrite`"
        raise HeadstartError(path, "the file that was written with the run", "an edited file", advice)
    return record


def describe_run_target(folder: Path) -> Target:
    """Return the target for replacing the folder of a run; raise UsageError if it is the root of the file system."""
    if not folder.resolve().name:
        raise UsageError(folder, "a folder below the root", "the root itself", f"Give another {_OPTION}")
    return Target(folder, RUN_ENTRIES, refuse_foreign_run, _OPTION)


def refuse_foreign_run(folder: Path) -> None:
    """Raise HeadstartError if a folder has entries with the names of a run's files but holds no run."""
    try:
        read_record(folder, checks_digest=False)
    except HeadstartError as error:
        advice = f"Move the files, or give another {_OPTION}"
        raise HeadstartError(error.where, error.expected, error.got, advice) from error


def recover_run(folder: Path) -> None:
    """Complete an interrupted replacement of a run, or of the sweep or the comparison that contains it."""
    if not folder.resolve().name or not folder.resolve().parent.name:
        return
    group = folder.resolve().parent
    dropout_runs = [path.name for path in group.glob(f"{WITH_DROPOUT}*")] if group.is_dir() else []
    names: Names = dict.fromkeys((TABLE_FILE, PLOT_FILE, COMPARISON_FILE))
    runs = dict.fromkeys((BEST_FOLDER, WITHOUT_DROPOUT, *dropout_runs), RUN_ENTRIES)
    for path, entries in ((folder, RUN_ENTRIES), (group, {**names, **runs})):
        recover_target(Target(path, entries, lambda _: None, _OPTION))


def describe_config(config: TrainConfig) -> dict[str, Any]:
    """Convert training options to JSON types, leaving out paths and the preset."""
    return {name: value for name, value in asdict(config).items() if name not in UNRECORDED_OPTIONS}


def check_config(values: Mapping[str, Any]) -> None:
    """Raise ValueError if a recorded option has a value that training does not accept."""
    # An older run does not record options that were added since.
    if missing := {"dropout", "validation_split"} - set(values):
        raise ValueError(f"config without {', '.join(sorted(missing))}")
    for option in list_options(TrainConfig):
        if option.name in values and option.name not in PATH_OPTIONS:
            try:
                convert_value(option, values[option.name])
            except UsageError as error:
                raise ValueError(f"config.{option.name} is {error.got}, not {error.expected}") from error


def _parse_record(data: bytes) -> RunRecord:
    """Parse run.json of any version; raise ValueError or TypeError if it is not the record of a run."""
    values = json.loads(data)
    if isinstance(values, dict) and values.get("run_version") == 1:
        values["head"] = values.pop("head_sha256", "")
    check_type(RunRecord, values, "")
    version, known = values.get("run_version", 0), {field.name for field in fields(RunRecord)}
    if version > RUN_VERSION:
        values = {name: value for name, value in values.items() if name in known}
    if not version or not values.keys() <= known or not values.get("files", {}).keys() <= DATA_FILES.keys():
        raise ValueError("unknown entries, or no run_version")
    record = RunRecord(**values)
    if not len(set(record.classes)) == len(record.classes) > 1:
        raise ValueError("fewer than two classes, or a repeated class")
    if version <= RUN_VERSION:
        check_config(record.config)
    return record
