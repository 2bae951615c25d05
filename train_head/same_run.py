"""Whether a run may be written, or exported: is it the same head, on the same features of the same pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields

from features.errors import HeadstartError
from train_head.config import TrainConfig
from train_head.run import RUN_FILE, Run, RunExample, RunRecord, list_run_examples
from train_head.split import Split

_NOT_COMPARED = {"images", "weights", "run", "overwrite", "no_report", "tensorboard"}
_NOT_SETTLED = ("cut", "")
"""What older runs have where the store had one cut alone; the fingerprint has it too."""
DEFAULTS = {option.name: option.default for option in fields(TrainConfig) if option.default is not MISSING} | {
    "views": 1
}
"""What a run that is older than an option was made with."""


class OtherRunError(HeadstartError):
    """The folder holds a run of other options, features or pictures."""


def refuse_changed_store(run: Run, fingerprint: str, split: Split, views_sha256: str) -> None:
    """Raises HeadstartError, saying what changed, where a store is not the one that a run was fitted on."""
    if fingerprint != run.record.fingerprint:
        raise HeadstartError(
            run.folder,
            f"a store with fingerprint {run.record.fingerprint[:12]}…, which the run was fitted on",
            f"{fingerprint[:12]}…",
            "Train again on this store, or give the run's own with --store",
        )
    then, now = set(run.read_examples()), set(list_run_examples(split))
    if then != now:
        gone, new = sorted(e.path for e in then - now), sorted(e.path for e in now - then)
        shown = ", ".join((gone + new)[:3])
        raise HeadstartError(
            run.folder,
            "the store as it was when the run was fitted",
            f"{len(gone)} examples gone or changed, {len(new)} new or changed (such as {shown})",
            "Train again, then export",
        )
    if views_sha256 != run.record.views_sha256:
        raise HeadstartError(
            run.folder, "the views that the run was fitted on", "others", "Train again with --overwrite, then export"
        )


def refuse_other_run(config: TrainConfig, record: RunRecord, examples: Sequence[RunExample]) -> bool:
    """Looks whether --run is free.

    Returns:
        True where the folder holds this very run already: same options, same features, same examples.

    Raises:
        OtherRunError: it holds another run.
        HeadstartError: it holds other files.
    """
    folder = config.run
    if folder.is_file():
        raise HeadstartError(folder, "a folder for the run", "a file", "Give another --run (RUN=)")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / RUN_FILE).is_file():
        raise HeadstartError(folder, "an empty folder", "a folder with other files", "Give another --run (RUN=)")
    if config.overwrite:
        return False
    other = Run(folder)
    differences = [
        f"{name} {_show(theirs)} instead of {_show(record.config.get(name))}"
        for name, theirs in {**DEFAULTS, **other.record.config}.items()
        if name not in _NOT_COMPARED and theirs != record.config.get(name) and (name, theirs) != _NOT_SETTLED
    ]
    if other.record.fingerprint != record.fingerprint:
        differences.append("features of another fingerprint")
    elif set(other.read_examples()) != set(examples):
        differences.append("other examples: the store has changed since")
    elif other.record.views_sha256 != record.views_sha256 and not differences:
        differences.append("other views of the examples: the store has changed since")
    if differences:
        raise OtherRunError(
            folder,
            "an empty folder or this same run",
            f"another run: {'; '.join(differences)}",
            "Give another --run (RUN=), or --overwrite (OVERWRITE=1)",
        )
    return True


def _show(value: object) -> str:
    return "nothing" if value is None else str(value)
