"""Options of `advise`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from base.options import OptionTopic
from base.urls import Location


@dataclass(frozen=True)
class AdviseConfig:
    """Options of `advise`."""

    store: Annotated[
        Path | None,
        Option(
            help="Feature store: compare the heads that its features allow, without extraction.",
            metavar="DIR",
            rich_help_panel=OptionTopic.PLACES,
        ),
    ] = None
    images: Annotated[
        Location | None,
        Option(
            help="Folder of pictures: extract a sample of its training pictures at 150 and at 299 px, and compare.",
            metavar="DIR",
            rich_help_panel=OptionTopic.PLACES,
        ),
    ] = None
    out: Annotated[
        Path | None,
        Option(
            help="Folder that keeps the features of the sample for the next call.",
            metavar="DIR",
            show_default="a temporary folder",
            rich_help_panel=OptionTopic.PLACES,
        ),
    ] = None
    pictures: Annotated[
        int,
        Option(
            min=20,
            help="Largest number of pictures in the sample; at most 200 a class.",
            rich_help_panel=OptionTopic.PICTURES,
        ),
    ] = 600
    seed: Annotated[
        int,
        Option(
            min=0,
            max=2**32 - 1,
            help="Random seed of the sample and of the intervals.",
            rich_help_panel=OptionTopic.PICTURES,
        ),
    ] = 0
    labels: Annotated[
        Location | None,
        Option(
            help="Table with the label of each picture, as in extraction.",
            metavar="FILE|URL",
            rich_help_panel=OptionTopic.PICTURES,
        ),
    ] = None
    columns: Annotated[
        str,
        Option(
            help="Columns of the table, as in extraction.", metavar="KEY=COLUMN,…", rich_help_panel=OptionTopic.PICTURES
        ),
    ] = ""
    classes: Annotated[
        str, Option(help="Classes to use, as in extraction.", metavar="CLASS,…", rich_help_panel=OptionTopic.PICTURES)
    ] = ""
    min_pictures: Annotated[
        int, Option(min=0, help="Leave out classes with fewer training pictures.", rich_help_panel=OptionTopic.PICTURES)
    ] = 0
    weights: Annotated[
        str,
        Option(
            help="Weights of the backbone for the sample, as in extraction.",
            metavar="NAME|FILE",
            rich_help_panel=OptionTopic.FEATURES,
        ),
    ] = "auto"
    threads: Annotated[
        int,
        Option(
            min=0,
            help="Processor cores for the sample. 0 means all available cores.",
            rich_help_panel=OptionTopic.SPEED,
        ),
    ] = 0
