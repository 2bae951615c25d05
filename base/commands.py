"""Names of all commands, with their modules and options, which are imported only when they are needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Topic(StrEnum):
    """Group of commands in the help of `headstart`."""

    START = "First steps"
    FEATURES = "Features"
    HEADS = "Heads"
    MODELS = "Models"


@dataclass(frozen=True)
class Command:
    """A command of `headstart`.

    The function of a command is in its module, and has the name of the command or of the subcommand.
    """

    topic: Topic
    summary: str
    """Line of the help of `headstart`."""
    module: str
    """Module with the function `main(name)`."""
    config: str = ""
    """Dataclass of the options, as `module:Class`; empty for a group of subcommands."""
    subcommands: Mapping[str, str] = field(default_factory=dict)
    """Dataclass of the options of each subcommand."""

    @property
    def runnable(self) -> str:
        """Module as it is given to `python -m`."""
        return self.module.removesuffix(".__main__")


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "demo": Command(
            Topic.START,
            "extract, train and export the solar cells, or your own pictures",
            "headstart.demo",
            "headstart.demo:DemoConfig",
        ),
        "doctor": Command(
            Topic.START,
            "check the installation and the computer, for a report of a bug",
            "headstart.doctor.__main__",
            "headstart.doctor.__main__:DoctorConfig",
        ),
        "extract": Command(
            Topic.FEATURES,
            "run the backbone over every new picture once and store the features",
            "extract.__main__",
            "extract.config:ExtractConfig",
            {"summary": "extract.config:SummaryConfig"},
        ),
        "features": Command(
            Topic.FEATURES,
            "describe, check, pack, prune, merge or copy feature stores",
            "features.__main__",
            subcommands={
                "info": "features.__main__:InfoConfig",
                "check": "features.__main__:CheckConfig",
                "pack": "features.__main__:PackConfig",
                "prune": "features.maintenance.command:PruneConfig",
                "merge": "features.merging.command:MergeConfig",
                "push": "features.transfer.commands:PushConfig",
                "pull": "features.transfer.commands:PullConfig",
            },
        ),
        "advise": Command(
            Topic.FEATURES,
            "compare the features of a store and of a sample of the pictures",
            "train_head.advise.__main__",
            "train_head.advise.config:AdviseConfig",
        ),
        "train": Command(
            Topic.HEADS, "fit a head on stored features", "train_head.__main__", "train_head.config:TrainConfig"
        ),
        "compare": Command(
            Topic.HEADS,
            "fit the same head without and with dropout",
            "train_head.compare",
            "train_head.compare:CompareConfig",
        ),
        "sweep": Command(
            Topic.HEADS,
            "fit many heads, compare them and keep the best",
            "train_head.sweep.__main__",
            "train_head.sweep.config:SweepConfig",
        ),
        "report": Command(
            Topic.HEADS,
            "write the report of a run again; --test also evaluates the pictures in test/",
            "train_head.report.__main__",
            "train_head.config:ReportConfig",
        ),
        "runs": Command(
            Topic.HEADS,
            "list the runs below a folder",
            "train_head.runs.__main__",
            "train_head.runs.listing:RunsConfig",
        ),
        "prune": Command(
            Topic.HEADS,
            "list files that are no longer needed below a folder; --confirm removes them",
            "train_head.prune.__main__",
            "train_head.prune.config:PruneConfig",
        ),
        "export": Command(
            Topic.MODELS,
            "write a run as one model that takes raw pixels, in one or more formats",
            "train_head.export.__main__",
            "train_head.export.config:ExportConfig",
        ),
        "predict": Command(
            Topic.MODELS,
            "classify pictures with an exported model",
            "train_head.predict.__main__",
            "train_head.predict.config:PredictConfig",
        ),
        "serve": Command(
            Topic.MODELS,
            "show a page that classifies pictures with an exported model",
            "train_head.serve.__main__",
            "train_head.serve.config:ServeConfig",
        ),
        "suggest": Command(
            Topic.MODELS,
            "rank unlabelled pictures by what labelling them would teach",
            "train_head.suggest.__main__",
            "train_head.suggest.config:SuggestConfig",
        ),
    }
)
"""Commands in the order of the help."""


def list_configs() -> Iterator[tuple[str, str]]:
    """Yield the name of each command and subcommand, such as `features check`, and its dataclass of options as text."""
    for name, command in COMMANDS.items():
        if command.config:
            yield name, command.config
        yield from ((f"{name} {subcommand}", config) for subcommand, config in command.subcommands.items())


def find_command(name: str) -> str:
    """Return the command that a program runs, such as `train` for `python -m train_head`; empty for any other.

    Args:
        name: words of the program, as its help shows them: `headstart train` or `python -m features check`.
    """
    program = name.removeprefix("python -m ")
    for command, _ in list_configs():
        first, *rest = command.split()
        if program in (f"headstart {command}", " ".join([COMMANDS[first].runnable, *rest])):
            return command
    return ""


def import_config(place: str) -> type:
    """Import the dataclass of the options of a command.

    Args:
        place: module and class, as `list_configs` yields them.
    """
    found: type = _import_member(*place.split(":"))
    return found


def import_function(name: str) -> Any:
    """Import the function of a command or subcommand."""
    words = name.split()
    return _import_member(COMMANDS[words[0]].module, words[-1])


def _import_member(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)
