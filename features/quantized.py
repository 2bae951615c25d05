"""Quantised backbone that a store of int8 features keeps, so that later features are computed by the same model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from base.errors import FeatureStoreError
from base.files import PARTIAL_PREFIX, read_regular_file, write_durably
from base.invocation import format_command
from base.system import sync_folder
from features.schema import BACKBONE_FOLDER, Fingerprint

GRAPH_NAME, WEIGHTS_NAME = "int8.xml", "int8.bin"
MODEL_NAMES = frozenset({GRAPH_NAME, WEIGHTS_NAME})
MAX_BYTES = 2**28
"""Largest accepted size of each file; the whole InceptionV3 takes 24 MB."""


class ModelDamagedError(FeatureStoreError):
    """Quantised backbone of a store that is missing, or differs from the one that computed the features."""


@dataclass(frozen=True)
class QuantizedModel:
    """Quantised backbone in OpenVINO's format, with an output named after each cut layer."""

    graph: bytes
    """Layers, as XML."""
    weights: bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the SHA-256 digests of both parts, 64 hexadecimal digits."""
        digests = (hashlib.sha256(part).digest() for part in (self.graph, self.weights))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def read_model(store: Path, digest: str) -> QuantizedModel:
    """Read the quantised backbone of a store, an untrusted file.

    Args:
        store: folder of the store.
        digest: expected digest, the calibration in the store's fingerprint.

    Raises:
        ModelDamagedError: a file is missing or unreadable, or the digest differs.
    """
    folder, expected = store / BACKBONE_FOLDER, f"the quantised backbone {digest[:12]}…"
    command = format_command("extract")
    advice = f"Run `{command}` again with the same options; it quantises the backbone from the same pictures"
    try:
        model = QuantizedModel(*(read_regular_file(folder / name, MAX_BYTES) for name in (GRAPH_NAME, WEIGHTS_NAME)))
    except OSError as error:
        raise ModelDamagedError(error.filename or folder, expected, error.strerror or str(error), advice) from error
    if model.digest != digest:
        raise ModelDamagedError(folder, expected, f"{model.digest[:12]}…", advice)
    return model


def write_model(store: Path, model: QuantizedModel) -> None:
    """Write the quantised backbone of a store durably, unless the store has it; the caller must hold the write lock."""
    try:
        read_model(store, model.digest)
    except ModelDamagedError:
        folder = store / BACKBONE_FOLDER
        folder.mkdir(exist_ok=True)
        write_durably(folder / GRAPH_NAME, model.graph)
        write_durably(folder / WEIGHTS_NAME, model.weights)
        sync_folder(store)


def find_model_problems(store: Path, fingerprint: Fingerprint) -> list[tuple[Path, str]]:
    """Check the quantised backbone of a store; return the path and the description of each problem."""
    folder = store / BACKBONE_FOLDER
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    expected = MODEL_NAMES if fingerprint.calibration else frozenset[str]()
    foreign = [name for name in names if name.removeprefix(PARTIAL_PREFIX) not in expected]
    problems = [(folder / name, "is not a file of the quantised backbone") for name in foreign]
    if fingerprint.calibration:
        try:
            read_model(store, fingerprint.calibration)
        except ModelDamagedError as error:
            problems.append((folder, str(error)))
    return problems
