"""Compression of stored features, and the HDF5 filters of a file."""

from __future__ import annotations

import importlib

import h5py

from base.errors import FeatureStoreError

ZSTD_FILTER = 32015
"""Number of zstd in the HDF Group's registry of filters. Stores of earlier versions may use it."""


def list_filters(dataset: h5py.Dataset) -> list[int]:
    """Return the numbers of the HDF5 filters of a dataset, in the order of writing."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]


def load_filters(dataset: h5py.Dataset) -> None:
    """Load the filters that are needed to read a dataset.

    Raises:
        FeatureStoreError: the package with the filter zstd is not installed.
    """
    if ZSTD_FILTER in list_filters(dataset):
        try:
            importlib.import_module("hdf5plugin")
        except ImportError as error:
            advice = 'Run `pip install "headstart[zstd]"`'
            raise FeatureStoreError("zstd", "the package hdf5plugin", "an environment without it", advice) from error
