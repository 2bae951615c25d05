"""The feature store: immutable HDF5 shards and a catalog. Knows neither stage and no TensorFlow."""

import os
import sys

# Python's name for a program while `python -m` looks for it: a command starts, and its other imports take a while.
if sys.argv[:1] == ["-m"]:
    try:
        from features import process

        process.start()
    except KeyboardInterrupt:
        os._exit(130)
