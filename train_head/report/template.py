"""Template of a report, with its filters; and the facts about a run that take more than a template to find."""

from __future__ import annotations

import platform
import shlex
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from base.errors import FeatureStoreError
from base.terminal import format_seconds, make_printable
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.store import FeatureStore
from train_head.evaluation.metrics import NUM_THRESHOLDS
from train_head.evaluation.uncertainty import Interval, compute_interval, describe_fits, format_percent, format_share
from train_head.report.gallery import MAX_PICTURES, NEAR
from train_head.report.sources import Sources

if TYPE_CHECKING:
    from jinja2 import Environment

NUM_EXACT_SHOWN = 50
_LIBRARIES = ("numpy", "scikit-learn", "keras")


def make_environment() -> Environment:
    """Make the templates' environment: text is made printable and escaped, and a forgotten value is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        # A file's name or a class's may hold anything. Text that is HTML already is of another type.
        finalize=lambda value: make_printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        commas=lambda number: f"{number:,}",
        interval_percent=lambda ends: Interval(*ends).format_percent(),
        last_part=lambda path: PurePath(path).name or path,
        percent=format_percent,
        seconds=format_seconds,
        share=format_share,
    )
    environment.globals.update(
        MAX_PICTURES=MAX_PICTURES,
        NEAR=NEAR,
        NUM_EXACT_SHOWN=NUM_EXACT_SHOWN,
        NUM_THRESHOLDS=NUM_THRESHOLDS,
        compute_interval=compute_interval,
        describe_fits=describe_fits,
    )
    return environment


def describe_sources(sources: Sources) -> dict[str, Any]:
    """Describe what was trained on what; a report may be passed on, and holds no path of this machine."""
    here, place = Path.cwd(), sources.place
    versions = sources.store.origin.versions | {"Python": platform.python_version()}
    versions |= {name: version(name) for name in _LIBRARIES}
    shown = place.relative_to(here) if place.is_relative_to(here) and place != here else Path(place.name)
    model = shown.with_name(f"{shown.name}-model")
    return {
        "versions": versions,
        "extraction": _describe_extraction(sources.store),
        "run_path": shlex.quote(make_printable(str(shown))),
        "model_path": shlex.quote(make_printable(str(model))),
    }


def _describe_extraction(store: FeatureStore) -> str:
    """Describe how long the features took, at the rate of the last extraction; empty where that is not known."""
    if not store.path.is_dir():
        return ""
    rate = 0.0
    with suppress(FeatureStoreError), closing(Catalog(store.path / CATALOG_NAME, writable=False)) as catalog:
        rate = float(catalog.read_meta("rows_per_second") or catalog.read_meta("images_per_second") or 0)
    if not rate:
        return ""
    return f"{format_seconds(store.num_features / rate)} for {store.num_features:,} features at {rate:.1f}/s"
