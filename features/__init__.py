"""Feature store: immutable HDF5 shards and a SQLite catalog. Imports no other package than base, and no TensorFlow."""

import base  # noqa: F401  # Installs the signal handlers of a command before the slow imports.
