"""Command-line arguments that repeat an extraction, a training or an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.options import list_options
from extract.config import ExtractConfig
from extract.engines.choose import default_engine
from features.options import Pool
from features.store import FeatureStore
from train_head.config import HeadConfig


def list_extraction_options(store: FeatureStore) -> list[str]:
    """List the options with which the features of a store are extracted again, without the weights and paths."""
    fingerprint = store.fingerprint
    found = ["--image-size", str(fingerprint.image_size)] if fingerprint.image_size != ExtractConfig.image_size else []
    found += ["--precision", fingerprint.precision] if fingerprint.precision != ExtractConfig.precision else []
    found += ["--engine", fingerprint.engine] if fingerprint.engine != default_engine(fingerprint.precision) else []
    found += ["--cut", fingerprint.cut] if fingerprint.cut != ExtractConfig.cut else []
    # Features that are pooled when read are stored without pooling.
    found += ["--pool", fingerprint.pool] if fingerprint.pool in set(Pool) - {Pool.NONE} else []
    # Without the table, the labels would become the names of the class folders.
    found += ["--labels", table] if (table := store.contents.labels.table) else []
    return found


def list_changed_options(options: Mapping[str, Any], declared: type = HeadConfig) -> list[str]:
    """List the options that differ from their defaults, as arguments of a command that trains again with a report.

    Args:
        options: values by name; options without a value are left out.
        declared: dataclass that declares the options, by default those of a training.
    """
    arguments: list[str] = []
    for option in list_options(declared):
        value, flag = options.get(option.name), f"--{option.name.replace('_', '-')}"
        if value is None or value == option.default or option.name in ("overwrite", "no_report"):
            continue
        arguments += [flag] if value is True else [flag, str(value)]
    return arguments
