"""Shared foundation: errors, files, terminal output, signals and command lines. Imports no other package."""

import os
import sys

# `python -m` sets argv[0] to "-m" while it imports the package of the command. Signals must be handled before the
# slow imports that follow.
if sys.argv[:1] == ["-m"]:
    try:
        from base import process

        process.prepare()
    except KeyboardInterrupt:
        os._exit(130)
