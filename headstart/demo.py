"""The first command to try: extract, train and export the solar cells, or your own pictures, in one process."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from base.arguments import parse_arguments
from base.command_line import run_app
from base.errors import UsageError
from base.invocation import format_command
from base.options import describe_preset
from base.terminal import Console, format_seconds
from base.urls import Location, UrlPath, locate_pictures, redact
from extract.__main__ import extract
from extract.config import ExtractConfig
from extract.demo_data import ElpvConfig, prepare_elpv
from train_head.__main__ import train
from train_head.config import TrainConfig
from train_head.export.__main__ import export
from train_head.export.config import ExportConfig

SOLAR_CELLS = Path("data/elpv")
"""Folder to which the default pictures are copied."""
MEASURED = "one to three minutes on two cores"
"""Duration of the demo with the default pictures and options."""


@dataclass(frozen=True)
class DemoConfig:
    """Options of `demo`."""

    images: Annotated[
        Location | None,
        Option(
            help="Your own pictures, in one folder for each class. By default 2,223 photographs of solar cells, from "
            "the package extra demo.",
            metavar="DIR|FILE|URL",
            show_default=str(SOLAR_CELLS),
        ),
    ] = None
    weights: Annotated[str, Option(help="Weights of the backbone, as for `extract`.", metavar="NAME|FILE|URL")] = "auto"
    out: Annotated[
        Path | None,
        Option(help="Folder for the store, the run and the model.", show_default="a folder in work/"),
    ] = None
    extract: Annotated[
        str, Option(help="Further options of `extract`, such as '--image-size 299'.", metavar="OPTIONS")
    ] = ""
    train: Annotated[str, Option(help="Further options of `train`, such as '--dropout 0.5'.", metavar="OPTIONS")] = ""
    export: Annotated[
        str, Option(help="Further options of `export`, such as '--formats keras,onnx'.", metavar="OPTIONS")
    ] = ""


@dataclass(frozen=True)
class DemoPlan:
    """Options of the three commands that the demo runs."""

    extract: ExtractConfig
    train: TrainConfig
    export: ExportConfig
    arguments: Mapping[str, list[str]]
    """Arguments of each command, without credentials."""


def plan_demo(config: DemoConfig) -> DemoPlan:
    """Return the options of the commands; each command reads what the one before it writes.

    Raises:
        UsageError: an option of a command is unknown or invalid.
    """
    images = config.images or SOLAR_CELLS
    out = config.out or Path("work", images.resolve().name)
    weights = {} if config.weights == ExtractConfig.weights else {"--weights": config.weights}
    shown: dict[str, list[str]] = {}

    def parse(command: str, kind: type[Any], further: str, places: Mapping[str, object]) -> Any:
        arguments = _list_arguments(command, further, {**places, **weights})
        shown[command] = [redact(argument) for argument in arguments]
        return parse_arguments(kind, arguments, f"headstart {command}")

    places = {"--images": images, "--store": out / "store"}
    extract = parse("extract", ExtractConfig, config.extract, places)
    places = {"--images": extract.images, "--store": extract.store, "--run": out / "run"}
    train = parse("train", TrainConfig, config.train, places)
    export = parse("export", ExportConfig, config.export, {"--run": train.run, "--out": out / "model"})
    return DemoPlan(extract, train, export, shown)


def _list_arguments(command: str, further: str, values: Mapping[str, object]) -> list[str]:
    """List the arguments of a command: values of options, then the further options, which replace them."""
    try:
        words = shlex.split(further)
    except ValueError as error:
        expected, advice = "options as for the shell", "Close all quotes"
        raise UsageError(f"--{command}", expected, f"{further!r} ({error})", advice) from error
    given = {word.partition("=")[0] for word in words}
    kept = {option: value for option, value in values.items() if option not in given}
    # The text of a URL has no credentials.
    return [text for option, value in kept.items() for text in (option, str(getattr(value, "full", value)))] + words


def demo(config: DemoConfig, console: Console) -> Mapping[str, Any]:
    """Extract features, train a head and export a model, of the solar cells or of your own pictures.

    Everything that an earlier demo finished is kept, and an interrupted one continues.

    Examples:
        headstart demo
        headstart demo --images pictures
        headstart demo --images pictures --train "--dropout 0.5" --export "--formats keras,onnx"
    """
    # Imports NumPy, which the help does not need.
    from extract.engines.choose import check_options

    started, plan = time.monotonic(), plan_demo(config)
    # Invalid options of extraction are found before any work.
    check_options(plan.extract.engine, plan.extract.precision)
    places = f"{plan.extract.store}, {plan.train.run} and {plan.export.out}"
    duration = "" if config.images else f" It takes {MEASURED}, and seconds the next time."
    console.info(f"The demo extracts features, trains a head and exports a model, into {places}.{duration}")
    if config.images is None:
        prepare_elpv(ElpvConfig(SOLAR_CELLS), console)
    results: dict[str, Any] = {}
    steps: list[tuple[str, Callable[[Any, Console], Mapping[str, Any]], Any]] = [
        ("extract", extract, plan.extract),
        ("train", _train, plan.train),
        ("export", export, plan.export),
    ]
    for number, (command, function, options) in enumerate(steps, 1):
        console.info("")
        line = format_command(command, *plan.arguments[command])
        console.info(f"Step {number} of {len(steps)}: {line}")
        if preset := describe_preset(options):
            console.info(preset)
        results[command] = function(options, console)
    return results | _show_results(plan, time.monotonic() - started, console)


def _train(config: TrainConfig, console: Console) -> Mapping[str, Any]:
    return train(config, console, time.monotonic())


def _show_results(plan: DemoPlan, seconds: float, console: Console) -> dict[str, str]:
    """Print where the report and the model are, and the next commands; return the paths."""
    from train_head.runs.read import Run

    run = Run(plan.train.run)
    report = run.report_path
    console.info("")
    console.info(f"Done in {format_seconds(seconds)}. The model is in {plan.export.out}.")
    if report:
        console.info(f"The report is in {report}. To read it, open {report.resolve().as_uri()}")
    picture = next(example.path for example in run.read_examples() if example.split == "validation")
    command = format_command("predict", "--model", plan.export.out, locate_example(plan.extract.images, picture))
    console.info(f"To classify a picture: {command}")
    return {"run": str(run.folder), "model": str(plan.export.out), "report": str(report or "")}


def locate_example(images: Location, picture: str) -> Location:
    """Return what `predict` classifies as an example: a picture, or the archive that it is in.

    Args:
        images: folder, archive or URL of the pictures.
        picture: path of a picture in it.
    """
    place = locate_pictures(images)
    return images if isinstance(place, UrlPath) and place.archive else images / picture


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(demo, DemoConfig, name)


if __name__ == "__main__":
    main("python -m headstart.demo")
