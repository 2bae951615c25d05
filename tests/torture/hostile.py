"""Fuzz test of input files: thousands of mutated pictures, shards, packed stores and exported models.

`make torture` runs all trials, and the tests run a small part. Pictures are read by `python -m extract` and
`python -m train_head.predict`, other files by `open_files.py`. Each of these runs in a child process, which must not
crash or need too much memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from features.options import Compression
from features.packed.write import pack_store
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from tests.features.stores import fill_store
from tests.inputs.makers import encode_heic, encode_jpeg_xl
from tests.pictures import draw_picture, encode
from tests.torture.mutations import mutate, mutate_member, mutate_png, remove_digest
from tests.torture.trials import parse_arguments
from tests.train_head.synthetic import save_tiny_model
from train_head.export.load import WEIGHTS_NAME
from train_head.runs.card import CARD_NAME

ROOT = Path(__file__).parents[2]
MAX_MEGABYTES = 2_500
"""Maximum peak memory of a child process."""
MAX_SECONDS = 240
"""Maximum time for one file, in seconds; a parser in an endless loop exceeds it."""


@dataclass
class Results:
    """Numbers of trials, and failures found; without failures `crashes` and `violations` are empty."""

    pictures: int = 0
    pictures_rejected: int = 0
    files: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    peak_megabytes: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def draw_seeds() -> dict[str, bytes]:
    """Draw a valid picture of each format and kind, by file name."""
    picture = draw_picture("cats", 0, (40, 30))
    clear = picture.convert("RGBA")
    clear.putalpha(128)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [draw_picture("dogs", n, (40, 30)) for n in range(2)]}
    sixteen = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    return {
        "plain.jpg": encode(picture, "JPEG", exif=exif),
        "progressive.jpg": encode(picture, "JPEG", progressive=True),
        "gray.jpg": encode(picture.convert("L"), "JPEG"),
        "cmyk.jpg": encode(picture.convert("CMYK"), "JPEG"),
        "plain.png": encode(picture, "PNG"),
        "alpha.png": encode(clear, "PNG"),
        "palette.png": encode(picture.quantize(16), "PNG", transparency=3),
        "sixteen.png": encode(sixteen, "PNG"),
        "plain.gif": encode(picture.quantize(32), "GIF"),
        "moving.gif": encode(picture, "GIF", **frames),
        "plain.bmp": encode(picture, "BMP"),
        "palette.bmp": encode(picture.quantize(16), "BMP"),
        "lossy.webp": encode(picture, "WEBP"),
        "lossless.webp": encode(clear, "WEBP", lossless=True),
        "moving.webp": encode(picture, "WEBP", **frames),
        "plain.avif": encode(picture, "AVIF"),
        "moving.avif": encode(picture, "AVIF", **frames),
        "plain.heic": encode_heic(picture, exif=exif.tobytes()),
        "alpha.heic": encode_heic(clear),
        "plain.jxl": encode_jpeg_xl(picture, use_container=True, exif=exif.tobytes()),
        "lossy.jxl": encode_jpeg_xl(clear, quality=90),
        "plain.tiff": encode(picture, "TIFF"),
        "packed.tiff": encode(picture, "TIFF", compression="tiff_lzw"),
    }


def mutate_pictures(folder: Path, count: int) -> None:
    """Fill two class folders with mutated pictures."""
    seeds = list(draw_seeds().items())
    for number in range(count):
        rng = random.Random(number)
        name, data = seeds[number % len(seeds)]
        change = mutate_png if name.endswith(".png") and rng.random() < 0.5 else mutate
        path = folder / ("cats", "dogs")[number % 2] / f"{number:06}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(change(rng, data))


class Hostile:
    """Trials in one scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._model = save_tiny_model(scratch / "valid.keras", 2)
        self.results = Results()

    def extract_and_predict(self, count: int) -> None:
        """Extract and predict mutated pictures; both must report the same bad pictures, each once, and omit none."""
        folder, store = self._scratch / "pictures", self._scratch / "store"
        mutate_pictures(folder, count)
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
        options = [
            "--weights",
            "random",
            "--image-size",
            "75",
            "--cut",
            "mixed0",
            "--pool",
            "avg",
            "--max-bad",
            "1",
            "--json",
        ]
        status, out = self._watch("extract", ["-m", "extract", "--images", folder, "--store", store, *options])
        if status != 0:
            self.results.violations.append(f"extract ended with {status}")
            return
        failed = [bad["image"] for bad in out["failed"]]
        examples = {example.path for example in FeatureStore(store).examples}
        self.results.pictures, self.results.pictures_rejected = count, len(failed)
        if len(failed) != len(set(failed)) or examples & set(failed) or examples | set(failed) != files:
            self.results.violations.append("a picture is missing or reported twice")
        if not all(bad["reason"] for bad in out["failed"]):
            self.results.violations.append("a picture is rejected without a reason")

        command = ["-m", "train_head.predict", "--model", self._model, folder, "--json"]
        status, out = self._watch("predict", command)
        if status != 1 or {bad["image"] for bad in out["failed"]} != {f"{folder}/{path}" for path in failed}:
            self.results.violations.append(f"predict ended with {status}, or rejected other pictures than extract")
        elif {found["image"] for found in out["predictions"]} != {f"{folder}/{path}" for path in examples}:
            self.results.violations.append("predict omitted a picture")

    def open_shards(self, count: int) -> None:
        """Open stores of one mutated shard, whose name has the right digest, so that HDF5 reads it."""
        fill_store(self._scratch / "valid", range(4))
        (shard,) = (self._scratch / "valid" / SHARD_FOLDER).iterdir()
        data = shard.read_bytes()

        def make(number: int) -> Path:
            changed = mutate(random.Random(number), data)
            store = self._scratch / "shard"
            shutil.rmtree(store, ignore_errors=True)
            (store / SHARD_FOLDER).mkdir(parents=True)
            (store / SHARD_FOLDER / f"000001-{hashlib.sha256(changed).hexdigest()}.h5").write_bytes(changed)
            return store

        self._open("shard", map(make, range(count)))

    def open_packs(self, count: int) -> None:
        """Open mutated packed stores."""
        fill_store(self._scratch / "unpacked", range(8))
        pack_store(
            FeatureStore(self._scratch / "unpacked"), self._scratch / "pack.h5", Compression.GZIP, lambda _: None
        )
        data = (self._scratch / "pack.h5").read_bytes()
        self._open("pack", self._make_files("mutated.h5", count, lambda rng: mutate(rng, data)))

    def open_models(self, count: int) -> None:
        """Open exported models: with mutated bytes, or with a mutated member and valid checksums."""
        # Any change of a model with a digest would be rejected because of the digest alone.
        data = remove_digest(self._model.read_bytes())
        changes: list[Callable[[random.Random], bytes]] = [
            lambda rng: mutate(rng, data),
            lambda rng: mutate_member(rng, data, WEIGHTS_NAME),
            lambda rng: mutate_member(rng, data, CARD_NAME),
        ]
        self._open("model", self._make_files("mutated.keras", count, lambda rng: rng.choice(changes)(rng)))

    def _make_files(self, name: str, count: int, make: Callable[[random.Random], bytes]) -> Iterator[Path]:
        for number in range(count):
            path = self._scratch / name
            path.write_bytes(make(random.Random(number)))
            yield path

    def _open(self, kind: str, paths: Iterator[Path]) -> None:
        """Open files in a child process; after a crash a new child continues."""
        child = None
        num_files = num_rejected = 0
        for path in paths:
            child = child or _start(["-m", "tests.torture.open_files", kind])
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            answered = select.select([child.stdout], [], [], MAX_SECONDS)[0]
            if not answered:
                child.kill()
            answer = child.stdout.readline() if answered else ""
            name = f"{kind} {num_files}"
            if not answer:
                self._end(kind, child)
                how = f"exit status {child.returncode}" if answered else f"no answer in {MAX_SECONDS} s"
                self.results.crashes.append(f"{name}: {how}")
                child = None
            elif answer.startswith("broken"):
                self.results.violations.append(f"{name}: {answer.strip()}")
            elif answer.startswith("rejected"):
                num_rejected += 1
                if str(path) not in answer:
                    self.results.violations.append(f"{name}: rejected without its path: {answer.strip()}")
            num_files += 1
        if child:
            assert child.stdin is not None
            child.stdin.close()
            self._end(kind, child)
        self.results.files[kind], self.results.rejected[kind] = num_files, num_rejected

    def _watch(self, kind: str, command: list[object]) -> tuple[int, dict[str, Any]]:
        child = _start(command)
        assert child.stdout is not None
        out = child.stdout.read()
        self._end(kind, child)
        if child.returncode < 0:
            self.results.crashes.append(f"{kind}: signal {-child.returncode}")
        return child.returncode, json.loads(out or "{}")

    def _end(self, kind: str, child: subprocess.Popen[str]) -> None:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss / 1000
        self.results.peak_megabytes[kind] = max(peak, self.results.peak_megabytes.get(kind, 0.0))
        if peak > MAX_MEGABYTES:
            self.results.violations.append(f"{kind}: {peak:,.0f} MB of memory")


def _start(command: list[Any]) -> subprocess.Popen[str]:
    arguments = [sys.executable, *map(str, command)]
    return subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_all(*, short: bool) -> Results:
    """Run every kind of trial; the short form runs a small part of the trials."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        hostile = Hostile(Path(folder).resolve())
        hostile.open_shards(30 if short else 1000)
        hostile.open_packs(30 if short else 1000)
        hostile.open_models(20 if short else 1000)
        hostile.extract_and_predict(170 if short else 20_400)
    hostile.results.seconds = round(time.monotonic() - started, 1)
    return hostile.results


if __name__ == "__main__":
    parts, is_short = parse_arguments(["files"])
    if parts:
        results = run_all(short=is_short)
        print(json.dumps(asdict(results), indent=2))
        sys.exit(bool(results.crashes or results.violations))
