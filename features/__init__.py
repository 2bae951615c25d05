"""The feature store: immutable HDF5 shards and a catalog. Knows neither stage and no TensorFlow."""

import base  # noqa: F401  # A command handles signals from here on.
