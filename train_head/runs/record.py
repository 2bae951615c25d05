"""run.json: what a run was made from, and the digests of its files. It holds no path of the machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from base.errors import HeadstartError, UsageError
from base.files import PARTIAL_PREFIX, read_regular_file
from base.options import convert_value, list_options
from base.replace import Names, Target, recover_target
from base.typed import check_type
from train_head.config import TrainConfig

RUN_FILE, METRICS_FILE, HISTORY_FILE = "run.json", "metrics.json", "history.csv"
EXAMPLES_FILE, PREDICTIONS_FILE = "examples.csv", "predictions.csv"
CURVES_FILE, REPORT_FILE = "curves.png", "report.html"
HEAD_FILE, LOGITS_FILE, REDUCTION_FILE = "head.npz", "validation_logits.npy", "reduction.npz"
LOCAL_FILE = "local.json"
"""The paths of this machine: for reports, and never passed on."""
LOGS_FOLDER, LOGS_FILE = "tensorboard", "events.out.tfevents.0.headstart"
MAX_JSON_BYTES = 2**26
DATA_FILES = {
    HEAD_FILE: 2**32,
    REDUCTION_FILE: 2**32,
    LOGITS_FILE: 2**30,
    METRICS_FILE: MAX_JSON_BYTES,
    HISTORY_FILE: 2**26,
    EXAMPLES_FILE: 2**29,
    PREDICTIONS_FILE: 2**29,
}
"""The files whose digests run.json has, and the largest size of each."""
RUN_ENTRIES: Names = {
    **dict.fromkeys((RUN_FILE, *DATA_FILES, CURVES_FILE, REPORT_FILE, PARTIAL_PREFIX + REPORT_FILE, LOCAL_FILE)),
    LOGS_FOLDER: {"train": {LOGS_FILE: None}, "validation": {LOGS_FILE: None}},
}
"""All entries that a run may have."""
RUN_VERSION = 2
PATH_OPTIONS = ("store", "run", "weights", "images")
"""Options that name a place, and change nothing about the head."""
BEST_FOLDER, TABLE_FILE, PLOT_FILE = "best", "sweep.csv", "sweep.png"
COMPARISON_FILE, WITHOUT_DROPOUT, WITH_DROPOUT = "compare.png", "without-dropout", "with-dropout-"
DEFAULTS = {option.name: option.default for option in fields(TrainConfig) if option.default is not MISSING} | {
    "views": 1
}
"""The options of a run that is older than the option."""

_Positive = Annotated[int, (1, math.inf)]


@dataclass(frozen=True)
class RunRecord:
    """What a run was made from."""

    config: dict[str, Any]
    """The options of training, without places."""
    solver: str
    store: str
    """Its path from the run's folder, or its name; in version 1 an absolute path."""
    fingerprint: str
    feature_shape: list[_Positive]
    classes: list[str]
    split_rule: str
    images: str = ""
    """The name of the pictures' folder."""
    weights: str = ""
    """The name of the backbone's weights; of a file without its folder."""
    weights_sha256: str = ""
    created: str = ""
    """When the fit ended, in UTC: `2026-11-25T14:03:27+00:00`."""
    head: str = ""
    """SHA-256 of head.npz; equal for equal heads."""
    reduction: str = ""
    """The key of the reduction whose inputs the head has; empty for a head on the features' own."""
    rank: _Positive | None = None
    """Inputs that the reduction was asked for."""
    views_sha256: str = ""
    """SHA-256 over the views of the training examples; empty for the first of each alone."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each data file; empty in version 1."""
    digest: str = ""
    """SHA-256 over all of the above, and so over all data files; empty in version 1."""
    run_version: _Positive = RUN_VERSION

    def compute_digest(self) -> str:
        """Compute the digest over everything but itself."""
        return hashlib.sha256(json.dumps(asdict(replace(self, digest="")), sort_keys=True).encode()).hexdigest()

    def format(self) -> bytes:
        """Format run.json, with its digest."""
        return (json.dumps(asdict(replace(self, digest=self.compute_digest())), indent=2) + "\n").encode()


def read_record(folder: Path, *, checks_digest: bool = True) -> RunRecord:
    """Read run.json, after completing an interrupted replacement of the folder.

    Raises:
        HeadstartError: there is no run in the folder, it is of another version, or run.json was edited.
    """
    path = folder / RUN_FILE
    if not path.is_symlink() and not path.exists():
        recover_run(folder)
    try:
        record = _parse_record(read_regular_file(path, MAX_JSON_BYTES))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        got = f"no readable {RUN_FILE} ({error})"
        raise HeadstartError(folder, "a run", got, "Train first, or give another --run (RUN=)") from error
    if record.run_version > RUN_VERSION:
        advice = "Use a newer Headstart, or another --run (RUN=)"
        raise HeadstartError(folder, f"run version {RUN_VERSION}", str(record.run_version), advice)
    if checks_digest and record.run_version > 1 and record.digest != record.compute_digest():
        advice = "Put it back, or train with --overwrite"
        raise HeadstartError(path, "the file that the run was written with", "an edited one", advice)
    return record


def describe_run_target(folder: Path, option: str = "--run (RUN=)") -> Target:
    """Describe the folder of a run, for replacing it; raise UsageError where it is the file system's root."""
    if not folder.resolve().name:
        raise UsageError(folder, "a folder below the root", "the root itself", f"Give another {option}")
    return Target(folder, RUN_ENTRIES, refuse_foreign_run, option)


def refuse_foreign_run(folder: Path) -> None:
    """Raise HeadstartError where a folder's entries of a run's names are not a run's."""
    try:
        read_record(folder, checks_digest=False)
    except HeadstartError as error:
        advice = "Move what is there, or give another --run (RUN=)"
        raise HeadstartError(error.where, error.expected, error.got, advice) from error


def recover_run(folder: Path) -> None:
    """Complete an interrupted replacement of a run, or of the sweep or comparison that it belongs to."""
    if not folder.resolve().name or not folder.resolve().parent.name:
        return
    group = folder.resolve().parent
    halves = [path.name for path in group.glob(f"{WITH_DROPOUT}*")] if group.is_dir() else []
    names: Names = dict.fromkeys((TABLE_FILE, PLOT_FILE, COMPARISON_FILE))
    runs = dict.fromkeys((BEST_FOLDER, WITHOUT_DROPOUT, *halves), RUN_ENTRIES)
    for place, entries in ((folder, RUN_ENTRIES), (group, {**names, **runs})):
        recover_target(Target(place, entries, lambda _: None, "--run (RUN=)"))


def describe_config(config: TrainConfig) -> dict[str, Any]:
    """Convert a config to JSON's types, without the places."""
    return {name: value for name, value in asdict(config).items() if name not in PATH_OPTIONS}


def check_config(values: Mapping[str, Any]) -> None:
    """Raise ValueError where an option of training has a value that the command would not take."""
    # Runs of earlier versions lack the options that came later.
    if missing := {"dropout", "validation_split"} - set(values):
        raise ValueError(f"no {', '.join(missing)} in config")
    for option in list_options(TrainConfig):
        if option.name in values and option.name not in PATH_OPTIONS:
            try:
                convert_value(option, values[option.name])
            except UsageError as error:
                raise ValueError(f"config.{option.name} is {error.got}, not {error.expected}") from error


def _parse_record(data: bytes) -> RunRecord:
    """Parse run.json of any version; raise ValueError where it is not a run's."""
    values = json.loads(data)
    if isinstance(values, dict) and values.get("run_version") == 1:
        values["head"] = values.pop("head_sha256", "")
    check_type(RunRecord, values, "")
    version, known = values.get("run_version", 0), {field.name for field in fields(RunRecord)}
    if version > RUN_VERSION:
        values = {name: value for name, value in values.items() if name in known}
    if not version or not values.keys() <= known or not values.get("files", {}).keys() <= DATA_FILES.keys():
        raise ValueError("other entries than a run has")
    record = RunRecord(**values)
    if not len(set(record.classes)) == len(record.classes) > 1:
        raise ValueError("fewer than two different classes")
    if version <= RUN_VERSION:
        check_config(record.config)
    return record
