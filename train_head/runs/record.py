"""run.json: what a run was made from, and the digests of its files. It holds no path of the machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from typer.models import OptionInfo

from base.errors import HeadstartError, UsageError
from base.files import PARTIAL_PREFIX, read_regular_file
from base.replace import Names, Target, recover_target
from train_head.config import TrainConfig

RUN_FILE, METRICS_FILE, HISTORY_FILE = "run.json", "metrics.json", "history.csv"
EXAMPLES_FILE, PREDICTIONS_FILE = "examples.csv", "predictions.csv"
CURVES_FILE, REPORT_FILE = "curves.png", "report.html"
HEAD_FILE, LOGITS_FILE, REDUCTION_FILE = "head.npz", "validation_logits.npy", "reduction.npz"
LOCAL_FILE = "local.json"
"""The paths of this machine: for reports, and never passed on."""
LOGS_FOLDER, LOGS_FILE = "tensorboard", "events.out.tfevents.0.headstart"
DATA_FILES = (
    HEAD_FILE,
    REDUCTION_FILE,
    LOGITS_FILE,
    METRICS_FILE,
    HISTORY_FILE,
    EXAMPLES_FILE,
    PREDICTIONS_FILE,
)
"""Those whose digests run.json has."""
RUN_NAMES: Names = {
    **dict.fromkeys((RUN_FILE, *DATA_FILES, CURVES_FILE, REPORT_FILE, PARTIAL_PREFIX + REPORT_FILE, LOCAL_FILE)),
    LOGS_FOLDER: {"train": {LOGS_FILE: None}, "validation": {LOGS_FILE: None}},
}
"""All that a run may hold."""
RUN_VERSION = 2
MAX_JSON_BYTES = 2**26
PLACES = ("store", "run", "weights", "images")
"""Options that say where something is, and change nothing about the head."""
BEST_FOLDER, TABLE_FILE, PLOT_FILE = "best", "sweep.csv", "sweep.png"
COMPARISON_FILE, WITHOUT_DROPOUT, WITH_DROPOUT = "compare.png", "without-dropout", "with-dropout-"


@dataclass(frozen=True)
class RunRecord:
    """What a run was made from."""

    config: dict[str, Any]
    """The options of training, without those of places."""
    solver: str
    store: str
    """Its path from the run's folder, or its name; in version 1 an absolute path."""
    fingerprint: str
    feature_shape: list[int]
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
    rank: int | None = None
    """How many inputs the reduction was asked for."""
    views_sha256: str = ""
    """Over which views of the training examples there were; empty for the first of each alone."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each data file; empty in version 1."""
    digest: str = ""
    """SHA-256 over all of the above, and so over all data files; empty in version 1."""
    run_version: int = RUN_VERSION

    def compute_digest(self) -> str:
        """Compute the digest over everything but itself."""
        return hashlib.sha256(json.dumps(asdict(replace(self, digest="")), sort_keys=True).encode()).hexdigest()

    def format(self) -> bytes:
        """Format run.json, with its digest."""
        return (json.dumps(asdict(replace(self, digest=self.compute_digest())), indent=2) + "\n").encode()


def read_record(folder: Path, *, checks_digest: bool = True) -> RunRecord:
    """Read a run's run.json.

    Args:
        folder: the run's folder; an interrupted replacement of it is completed first.
        checks_digest: whether one that was edited is refused.

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
        got = str(record.run_version)
        raise HeadstartError(
            folder, f"run version {RUN_VERSION}", got, "Use a newer Headstart, or another --run (RUN=)"
        )
    if checks_digest and record.run_version > 1 and record.digest != record.compute_digest():
        raise HeadstartError(
            path, "the file that the run was written with", "an edited one", "Put it back, or train with --overwrite"
        )
    return record


def describe_run_target(folder: Path, option: str = "--run (RUN=)") -> Target:
    """Describe the folder of a run, for replacing it.

    Raises:
        UsageError: it is the root of the file system.
    """
    if not folder.resolve().name:
        raise UsageError(folder, "a folder below the root", "the root itself", f"Give another {option}")
    return Target(folder, RUN_NAMES, refuse_foreign_run, option)


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
    recover_target(Target(folder, RUN_NAMES, _accept, "--run (RUN=)"))
    group = folder.resolve().parent
    halves = [path.name for path in group.glob(f"{WITH_DROPOUT}*")] if group.is_dir() else []
    names = dict.fromkeys((TABLE_FILE, PLOT_FILE, COMPARISON_FILE))
    runs = dict.fromkeys((BEST_FOLDER, WITHOUT_DROPOUT, *halves), RUN_NAMES)
    recover_target(Target(group, {**names, **runs}, _accept, "--run (RUN=)"))


def describe_config(config: TrainConfig) -> dict[str, Any]:
    """Put a config into JSON's types, without the places."""
    return {name: value for name, value in asdict(config).items() if name not in PLACES}


def _accept(_: Path) -> None:
    pass


def _parse_record(data: bytes) -> RunRecord:
    """Parse run.json of any version; raise ValueError where it is not what a run has."""
    values = json.loads(data, parse_constant=_refuse_constant)
    if not isinstance(values, dict):
        raise ValueError("no dictionary")
    version = values.get("run_version")
    if type(version) is int and version > RUN_VERSION:
        known = {field.name for field in fields(RunRecord)}
        values = {name: value for name, value in values.items() if name in known}
    if version == 1:
        values["head"] = values.pop("head_sha256", "")
    try:
        record = RunRecord(**values)
    except TypeError:
        raise ValueError("other entries than a run has") from None
    if type(version) is not int or version < 1 or not _is_typed(record):
        raise ValueError("values of other kinds than a run has")
    if version <= RUN_VERSION:
        check_config(record.config)
    return record


def _is_typed(record: RunRecord) -> bool:
    texts = (getattr(record, option.name) for option in fields(record) if option.type == "str")
    return (
        isinstance(record.config, dict)
        and all(isinstance(text, str) for text in texts)
        and isinstance(record.feature_shape, list)
        and all(type(side) is int and side > 0 for side in record.feature_shape)
        and isinstance(record.classes, list)
        and all(isinstance(label, str) for label in record.classes)
        and len(set(record.classes)) == len(record.classes) > 1
        and (record.rank is None or (type(record.rank) is int and record.rank > 0))
        and isinstance(record.files, dict)
        and all(name in DATA_FILES and isinstance(digest, str) for name, digest in record.files.items())
    )


def check_config(values: Mapping[str, Any]) -> None:
    """Raise ValueError where an option of training has a value that the command would not take."""
    hints = get_type_hints(TrainConfig, include_extras=True)
    for option in fields(TrainConfig):
        if option.name in PLACES:
            continue
        if option.name not in values:
            # Runs of earlier versions lack the options that came later.
            if option.name in ("dropout", "validation_split"):
                raise ValueError(f"no {option.name}: values of other kinds than a run has")
            continue
        annotated, *extras = get_args(hints[option.name])
        info = next((extra for extra in extras if isinstance(extra, OptionInfo)), None)
        kinds = get_args(annotated) or (annotated,)
        if not any(_fits(kind, values[option.name], info) for kind in kinds):
            value = repr(values[option.name])
            raise ValueError(f"{option.name} {value}: values of other kinds than a run has")


DEFAULTS = {option.name: option.default for option in fields(TrainConfig) if option.default is not MISSING} | {
    "views": 1
}
"""What a run that is older than an option was made with."""


def _fits(kind: Any, value: object, info: OptionInfo | None) -> bool:
    if kind is type(None):
        return value is None
    if issubclass(kind, StrEnum):
        return value in list(kind)
    if kind not in (int, float):
        return type(value) is kind
    if type(value) not in (int, kind) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    low, high = (info.min, info.max) if info else (None, None)
    return (low is None or value >= low) and (high is None or value <= high)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} in it")
