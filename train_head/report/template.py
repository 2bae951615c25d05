"""Environment of the report's templates, with their filters, and facts about a run's origin."""

from __future__ import annotations

import functools
import html
import platform
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from base.errors import FeatureStoreError
from base.terminal import NUM_LISTED, format_seconds, make_printable
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.store import FeatureStore
from train_head.evaluation.curves import NUM_THRESHOLDS
from train_head.evaluation.neighbours import NEAR
from train_head.evaluation.pooled import MAX_PICTURES
from train_head.evaluation.uncertainty import NUMBER_FILTERS, compute_interval, describe_fits
from train_head.report.classes import MAX_PLAIN_CLASSES
from train_head.report.data import DATA_ID
from train_head.report.gallery import NUM_OPEN
from train_head.report.heatmap import count_classes_per_square
from train_head.report.sources import Sources

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

NUM_EXACT_SHOWN = 50
_LIBRARIES = ("numpy", "scikit-learn", "keras")


@functools.cache
def make_environment(folder: Path = Path(__file__).parent) -> Environment:
    """Make the environment of the templates in a folder, which are compiled once in a process.

    Text is made printable and escaped, and a missing value is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        # File and class names may contain control characters. HTML has the type Markup and is left unchanged.
        finalize=lambda value: make_printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        NUMBER_FILTERS,
        break_path=_break_path,
        loss=lambda loss: "not finite" if loss is None else f"{loss:.4g}",
        last_part=lambda path: PurePath(path).name or path,
        points=lambda share, sign="": f"{round(100 * share, 9):{sign}.1f}",
        seconds=format_seconds,
    )
    environment.globals.update(
        DATA_ID=DATA_ID,
        MAX_PICTURES=MAX_PICTURES,
        MAX_PLAIN_CLASSES=MAX_PLAIN_CLASSES,
        NEAR=NEAR,
        NUM_EXACT_SHOWN=NUM_EXACT_SHOWN,
        NUM_LISTED=NUM_LISTED,
        NUM_OPEN=NUM_OPEN,
        NUM_THRESHOLDS=NUM_THRESHOLDS,
        compute_interval=compute_interval,
        count_classes_per_square=count_classes_per_square,
        describe_fits=describe_fits,
    )
    return environment


def describe_sources(sources: Sources) -> dict[str, Any]:
    """Describe the store that a run was fitted on, without any path of this machine."""
    versions = sources.store.origin.versions | {"Python": platform.python_version()}
    return {
        "store": sources.store,
        "versions": versions | {name: version(name) for name in _LIBRARIES},
        "extraction": _describe_extraction(sources.store),
    }


def embed_page(path: Path) -> str:
    """Return HTML that shows a page in a notebook, without running its scripts."""
    page = html.escape(path.read_text(encoding="utf-8"))
    return f'<iframe sandbox srcdoc="{page}" style="width: 100%; height: 50rem; border: 0"></iframe>'


def _break_path(path: str) -> Markup:
    """Allow line breaks in a path after its slashes."""
    from markupsafe import Markup

    return Markup("/<wbr>").join(make_printable(path).split("/"))


def _describe_extraction(store: FeatureStore) -> str:
    """Estimate the extraction time of all features from the last recorded rate; empty if the rate is unknown."""
    if not store.path.is_dir():
        return ""
    rate, path = 0.0, store.parts[0].path if store.parts else store.path
    with suppress(FeatureStoreError), closing(Catalog(path / CATALOG_NAME, writable=False)) as catalog:
        rate = float(catalog.read_meta("rows_per_second") or catalog.read_meta("images_per_second") or 0)
    if not rate:
        return ""
    return f"{format_seconds(store.num_features / rate)} for {store.num_features:,} features at {rate:.1f}/s"
