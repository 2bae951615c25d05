"""Trial of all stages on generated pictures, in a process of its own: `python -m headstart.doctor.trial FOLDER`.

TensorFlow can end its process, for example on a processor without AVX; the report then still has all other checks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from headstart.doctor.findings import REINSTALL, Finding, Status, describe_error

CUT = "mixed0"
"""Cut layer; models of an early one are built in half of the time."""
NUM_PICTURES = {"train": 5, "validation": 3}
"""Number of pictures of each of the two classes in each split; 16 in all."""
MAX_DIFFERENCE = 0.01
"""Largest accepted difference of a probability: features are stored in float16."""
TIMEOUT_S = 300
_ROOT = Path(__file__).parents[2]
_ILLEGAL_INSTRUCTION = (-signal.SIGILL, 0xC000001D)
"""Exit statuses of a process that ran an instruction that the processor lacks, on POSIX and on Windows."""


@contextmanager
def open_trial() -> Iterator[Callable[[], Iterator[Finding]]]:
    """Start the trial in a process of its own, which ends with the block; yield the function that waits for its result.

    Raises:
        OSError: there is no place for the files of the trial, or the process cannot be started.
    """
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "PYTHONUTF8": "1"}
    if (_ROOT / "pyproject.toml").is_file():
        # A checkout is not installed, and -P leaves the current folder out of the search for modules.
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with TemporaryDirectory(prefix="headstart-doctor-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "headstart.doctor.trial", folder],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        with process:
            try:
                yield partial(_wait_for_trial, process)
            finally:
                process.kill()


def _wait_for_trial(process: subprocess.Popen[str]) -> Iterator[Finding]:
    try:
        output, error = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        advice = "Close other programs, and run this command again"
        yield Finding("trial", f"did not end within {TIMEOUT_S} s", Status.PROBLEM, advice)
        return
    found = [json.loads(line) for line in output.splitlines() if line.startswith('{"name"')]
    yield from (Finding(**{**each, "status": Status(each["status"])}) for each in found)
    if process.returncode or not found:
        yield describe_end(process.returncode, error, has_started=bool(found))


def describe_end(status: int, error: str, *, has_started: bool) -> Finding:
    """Describe a trial that failed.

    Args:
        status: exit status of its process; negative for a signal.
        error: what it wrote to standard error.
        has_started: whether TensorFlow was imported.
    """
    lines = [line for line in error.splitlines() if line.strip()]
    cause = lines[-1].strip() if lines else f"exit status {status}"
    advice = "Report this output" if has_started else REINSTALL
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        cause = f"ended by {name}"
        if name == "SIGKILL":
            advice = "Close other programs: the system ends processes if the memory is full"
    if status in _ILLEGAL_INSTRUCTION:
        cause = f"an illegal instruction ended it ({'SIGILL' if status < 0 else hex(status)})"
        advice = "Use a processor with AVX, or a build of TensorFlow without it"
    return Finding("trial" if has_started else "TensorFlow", cause, Status.PROBLEM, advice)


def run_trial(folder: Path) -> Iterator[Finding]:
    """Extract generated pictures with random weights, train a head, export it and predict with it.

    Args:
        folder: an empty folder.

    Yields:
        A finding for each stage that succeeded; a failure raises its exception.
    """
    started = time.monotonic()

    def finish(name: str, text: str = "") -> Finding:
        nonlocal started
        now = time.monotonic()
        finding = Finding(name, f"{text}{now - started:.1f} s")
        started = now
        return finding

    from base.terminal import import_quietly

    import_quietly("tensorflow")
    import_quietly("keras")
    import tensorflow as tf

    yield finish("TensorFlow", f"{tf.__version__}, imported in ")
    yield describe_gpus([str(device.name) for device in tf.config.list_physical_devices("GPU")])
    import headstart as hs

    draw_pictures(folder / "pictures")
    store = hs.extract(folder / "pictures", folder / "store", weights="random", image_size=75, cut=CUT)
    yield finish("extract", "16 generated pictures, ")
    run = hs.train(store, folder / "run", epochs=2, units=16, no_report=True)
    yield finish("train")
    model = hs.export(run, folder / "model")
    yield finish("export", "checked, ")
    expected = run.read_predictions()
    found = hs.predict(model, [folder / "pictures" / each.path for each in expected])
    difference = max(
        abs(probability - prediction.probabilities[label])
        for each, prediction in zip(expected, found, strict=True)
        for label, probability in each.probabilities.items()
    )
    yield finish("predict")
    text = f"probabilities differ by at most {difference:.1g}"
    if difference <= MAX_DIFFERENCE:
        yield Finding("agreement of model and run", text)
    else:
        yield Finding("agreement of model and run", text, Status.PROBLEM, "Report this output")


def describe_gpus(names: list[str]) -> Finding:
    """Describe the GPUs that TensorFlow can use, and whether there is one that it cannot use."""
    from extract.engines.processor import has_gpu

    if names or not has_gpu():
        return Finding("GPU", ", ".join(names) or "none that TensorFlow can use; extraction runs on the processor")
    advice = "Run `make gpu`, or install the extra gpu, to use it"
    return Finding("GPU", "present, but not usable by this TensorFlow", Status.NOTE, advice)


def draw_pictures(folder: Path) -> None:
    """Write pictures of noise around two colours, as `SPLIT/CLASS/NUMBER.png`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in NUM_PICTURES.items():
        for label, colour in {"blue": (60, 90, 200), "red": (200, 80, 60)}.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(colour, 30, (80, 90, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")


def main(folder: Path) -> int:
    """Run the trial, print its findings as lines of JSON, and return the exit status."""
    try:
        for finding in run_trial(folder):
            print(json.dumps(asdict(finding)), flush=True)
    except Exception as error:
        print(describe_error(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
