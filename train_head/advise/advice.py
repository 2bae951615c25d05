"""Advice on the settings of a data set: comparisons, conclusions and the command to run next."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from base.errors import UsageError
from base.invocation import format_command, is_command_running
from base.notebook import render_table
from base.options import list_options
from base.terminal import Console
from extract.weights.find import AUTO
from features.labels import require_single_labels
from train_head.advise.compare_features import Comparison, compare_settings
from train_head.advise.config import AdviseConfig
from train_head.advise.sample import extract_sample
from train_head.advise.settings import Setting, open_settings
from train_head.advise.table import describe_comparison, describe_conclusions, format_rows, format_title
from train_head.config import SolverName
from train_head.data.summary import check_extraction, check_images_folder

FILE_SOURCE = "file"
"""Source of weights that are a file of the user, in the record of a store."""


@dataclass(frozen=True)
class Advice:
    """Comparisons of settings, and the command to run next."""

    comparisons: list[Comparison]
    """Of the features in the store, if one was given; then of the sample of the pictures, if they were given."""
    command: str
    """Command to run next, as a line for the shell, or in Python as a line with calls; empty if no setting is
    significantly better."""
    num_pictures: int
    """Number of pictures in the folder; 0 if only a store was given."""

    def to_json(self) -> dict[str, Any]:
        """Return the advice as `--json` prints it."""
        comparisons = [describe_comparison(comparison, self.num_pictures) for comparison in self.comparisons]
        return {"comparisons": comparisons, "command": self.command}

    def __str__(self) -> str:
        """Return the results, the conclusions and the command as lines."""
        lines = []
        for comparison in self.comparisons:
            lines.append(format_title(comparison))
            rows = format_rows(comparison, self.num_pictures)
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
            lines += describe_conclusions(comparison)
        return "\n".join([*lines, f"next: {self.command}"] if self.command else lines)

    def _repr_html_(self) -> str:
        parts = []
        for comparison in self.comparisons:
            header, *rows = format_rows(comparison, self.num_pictures)
            parts.append(render_table(format_title(comparison), rows, header))
            parts += [f"<p>{escape(line)}</p>" for line in describe_conclusions(comparison)]
        return "".join([*parts, f"<p>next: <code>{escape(self.command)}</code></p>"] if self.command else parts)


def advise(config: AdviseConfig, console: Console) -> Advice:
    """Compare the settings that a store and its pictures allow.

    Raises:
        UsageError: neither a store nor pictures were given.
        HeadstartError: the store or the pictures cannot be used.
    """
    if config.store is None and config.images is None:
        raise UsageError("--store", "a store or a folder of pictures", "neither", "Give --store, --images, or both")
    comparisons, num_pictures = list[Comparison](), 0
    stored = _open_stored(config)
    if stored:
        comparisons.append(compare_settings(f"features in {config.store}", stored, config.seed, console))
        origin = stored[0].stores[0].origin
        if config.weights == AUTO and origin.weights_name == FILE_SOURCE:
            config = replace(config, weights=origin.weights_file)
    if config.images:
        with ExitStack() as stack:
            folder = config.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headstart-advise-")))
            sample = extract_sample(config, config.images, folder, console)
            # The features in the store, if they are among those of the sample, are the ones to compare with.
            used = [setting for setting in sample.settings if stored and setting.digests == stored[0].digests]
            ordered = used + [setting for setting in sample.settings if setting not in used]
            title = f"a sample of the pictures in {config.images}"
            comparisons.append(compare_settings(title, ordered, config.seed, console, is_sample=True))
            num_pictures = sample.num_pictures
    return Advice(comparisons, suggest_command(config, comparisons), num_pictures)


def suggest_command(config: AdviseConfig, comparisons: Sequence[Comparison]) -> str:
    """Return the command for the best setting of the last comparison that has a significantly better one, or ""."""
    for comparison in reversed(comparisons):
        if comparison.best.difference:
            return format_next_command(config, comparison.best.setting)
    return ""


def format_next_command(config: AdviseConfig, setting: Setting) -> str:
    """Format the command that trains on a setting; if its features are not stored, after their extraction.

    The folders are beside those that were given, with the names that make uses for a preset.
    """
    made = list((setting.extract or {}).values())
    beside = config.out or config.store
    folder = beside.parent if beside else Path("work")
    store = folder / "-".join(["store", *made])
    solver = {} if "preset" in setting.train else {"solver": SolverName.RIDGE.value}
    chosen = {**setting.train, **solver}
    run = folder / "-".join(["run", *dict.fromkeys([*made, *map(str, chosen.values())])]).replace(",", "-")
    if setting.extract is None and config.store:
        store = config.store
    train = ["--store", str(store), "--run", str(run), *_list_arguments(chosen)]
    if setting.extract is None:
        return format_command("train", *train)
    names = ("labels", "columns", "classes", "min_pictures", "weights")
    defaults = {option.name: option.default for option in list_options(AdviseConfig)}
    given = {name: value for name in names if (value := getattr(config, name)) != defaults[name]}
    extract = ["--images", str(config.images), "--store", str(store)]
    extract += _list_arguments({**setting.extract, **given})
    commands = format_command("extract", *extract), format_command("train", *train)
    return (" && " if is_command_running() else "; ").join(commands)


def _open_stored(config: AdviseConfig) -> list[Setting]:
    """Open the settings of the given store; raise HeadstartError if it cannot be trained on."""
    if not config.store:
        return []
    settings = open_settings(config.store)
    for store in settings[0].stores:
        require_single_labels(store.path, store.contents.labels)
        check_images_folder(store, config.images)
        check_extraction(store)
    return settings


def _list_arguments(options: Mapping[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
