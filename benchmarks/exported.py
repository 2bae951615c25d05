"""Worker process of `benchmarks.export`: load one exported model, and run it on pictures.

Run `python -m benchmarks.exported FORMAT PATH PICTURES NUM_TIMED [OUTPUT.npy]`. It prints a line of JSON, and writes
the probabilities of all pictures into OUTPUT.npy.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.process import read_peak_bytes
from train_head.export.config import Format
from train_head.export.formats import import_format

NUM_WARM = 3
"""Number of pictures before the timed ones: the first calls of a runtime allocate and optimise."""


def main() -> None:
    """Measure a model, with the arguments above."""
    each, path, pictures, num_timed, *outputs = sys.argv[1:]
    with np.load(pictures) as file:
        names = file.files
        ready = [np.asarray(file[name], np.float32)[None] for name in names[: NUM_WARM + int(num_timed)]]
        started = time.monotonic()
        # This includes the import of the runtime.
        run = import_format(Format(each)).load(Path(path))
        load_seconds = time.monotonic() - started
        seconds = []
        for picture in ready:
            started = time.monotonic()
            run(picture)
            seconds.append(time.monotonic() - started)
        found = {
            "load_seconds": load_seconds,
            "picture_seconds": statistics.median(seconds[NUM_WARM:]),
            "peak_bytes": read_peak_bytes(),
        }
        if outputs:
            rows = [run(np.asarray(file[name], np.float32)[None]).probabilities for name in names]
            np.save(outputs[0], np.concatenate(rows))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
