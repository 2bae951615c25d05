"""Ground floor: errors, files, the terminal, signals and command lines. Knows nothing of features."""

import os
import sys

# Python's name for a program while `python -m` looks for it: a command starts, and its other imports take a while.
if sys.argv[:1] == ["-m"]:
    try:
        from base import process

        process.start()
    except KeyboardInterrupt:
        os._exit(130)
