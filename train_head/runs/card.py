"""Card of an exported model: its description, stored inside model.keras and readable without TensorFlow."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from base.errors import HeadstartError
from base.regular import RegularFile
from base.typed import check_type
from extract.backbone import MAX_IMAGE_SIZE
from train_head.config import NO_FINE_TUNING

MODEL_FILE, LABELS_FILE = "model.keras", "labels.txt"
CARD_NAME = "headstart.json"
"""Name of the card inside `model.keras` (a zip file); Keras does not read it."""
MAX_CARD_BYTES = 2**24
_ADDED: dict[str, object] = {
    **{"oldest_keras": "", "pool": "", "scales": []},
    **{"outlier_threshold": None, "is_multi_label": False, "thresholds": []},
}
"""Defaults of the fields that older exports do not have."""
MAX_MODEL_BYTES = 2**32


@dataclass(frozen=True)
class ModelCard:
    """Description of an exported model, stored inside `model.keras`."""

    classes: list[str]
    image_size: int
    decode_policy: str
    cut: str
    """Cut layer, or several separated by commas."""
    weights: str
    """Name of the backbone's weights; for a file, its name without the folder."""
    fingerprint: str
    val_accuracy: float
    unfreeze_from: str = NO_FINE_TUNING
    """First fine-tuned layer of the backbone, or `none`."""
    weights_sha256: str = ""
    """SHA-256 of the backbone's weights up to the cut, as loaded; empty in older exports."""
    run: str = ""
    """SHA-256 of the exported run's head; empty in older exports."""
    oldest_keras: str = ""
    """Oldest version of Keras that loads the model; empty in older exports."""
    pool: str = ""
    """Pooling of the cut layers' outputs; empty in older exports, where the shape of the kernel shows it."""
    scales: list[float] = field(default_factory=list)
    """Factor of the output of each of several cut layers."""
    outlier_threshold: float | None = None
    """Largest distance of an ordinary picture; None without a distance."""
    is_multi_label: bool = False
    """Whether a picture has any number of the classes, instead of one."""
    thresholds: list[float] = field(default_factory=list)
    """Probability from which a picture has each class, for several labels; else empty."""
    digest: str = ""
    """SHA-256 over the card and the other members; empty in older exports."""

    def check(self) -> None:
        """Raise ValueError if a value is not valid in an export."""
        classes = self.classes
        if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(label, str) for label in classes):
            raise ValueError("a card with fewer than two class names")
        if len(set(classes)) < len(classes):
            raise ValueError("a card with a repeated class name")
        if type(self.image_size) is not int or not 0 < self.image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"a card with image size {self.image_size!r}")
        if type(self.val_accuracy) not in (int, float) or not 0 <= self.val_accuracy <= 1:
            raise ValueError(f"a card with accuracy {self.val_accuracy!r}")
        if len(self.thresholds) != (len(classes) if self.is_multi_label else 0):
            raise ValueError(f"a card with {len(self.thresholds)} thresholds")
        check_type(ModelCard, {**vars(self), "val_accuracy": float(self.val_accuracy)}, "")
        if self.outlier_threshold is not None and not 0 <= self.outlier_threshold < math.inf:
            raise ValueError(f"a card with outlier threshold {self.outlier_threshold!r}")
        if not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"a card with scales {self.scales!r}")

    def compute_digest(self, members: Mapping[str, bytes]) -> str:
        """Compute the SHA-256 of the card, without its digest, and of the other members in alphabetical order."""
        values = asdict(replace(self, digest=""))
        # The digest of an older export does not cover these fields.
        values = {name: value for name, value in values.items() if name not in _ADDED or value != _ADDED[name]}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
        for name in sorted(members):
            digest.update(f"\n{name} {len(members[name])}\n".encode())
            digest.update(members[name])
        return digest.hexdigest()


def read_card(path: Path) -> ModelCard:
    """Read the card of an exported model.

    Raises:
        HeadstartError: the file is missing or is not an exported model.
    """
    with open_export(path) as (card, _):
        return card


@contextmanager
def open_export(path: Path) -> Iterator[tuple[ModelCard, zipfile.ZipFile]]:
    """Open an exported model once, and yield its card and its archive.

    An archive whose uncompressed members are larger than the file is rejected, so that it cannot exhaust the memory.

    Raises:
        HeadstartError: the file is missing or is not an exported model, or the body of the `with` statement failed.
    """
    try:
        with RegularFile(path, follow=True) as file, zipfile.ZipFile(file) as archive:
            num_bytes = file.identity.num_bytes
            if num_bytes > MAX_MODEL_BYTES:
                raise ValueError(f"a file of {num_bytes:,} bytes, which is too large")
            card_bytes = archive.getinfo(CARD_NAME).file_size
            if card_bytes > MAX_CARD_BYTES:
                raise ValueError(f"a card of {card_bytes:,} bytes, which is too large")
            if sum(member.file_size for member in archive.infolist()) > num_bytes:
                raise ValueError("an archive whose uncompressed members are larger than the file")
            card = ModelCard(**json.loads(archive.read(CARD_NAME)))
            card.check()
            yield card, archive
    except Exception as error:
        # A damaged file makes zipfile, json or HDF5 fail, each with its own exceptions.
        got = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        advice = "Export a run first, or check the path"
        raise HeadstartError(path, "an exported model", got, advice) from error


def list_label_contents(classes: Sequence[str]) -> tuple[bytes, bytes]:
    """Return the contents of labels.txt that exports of this and of earlier versions write."""
    # Earlier versions escaped "\n" only.
    older = "".join(label.replace("\n", "\\n") + "\n" for label in classes).encode("utf-8", "surrogateescape")
    return format_labels(classes), older


def format_labels(classes: Sequence[str]) -> bytes:
    r"""Format labels.txt: one class name per line, in the order of the model's outputs.

    A backslash is doubled. Control characters, line separators and bytes that are not valid UTF-8 become Python's
    escape sequences: `\n`, `\x85`, `\u2028`, `\udce9`.
    """

    def escape(char: str) -> str:
        is_plain = char != "\\" and unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
        return char if is_plain else char.encode("unicode_escape").decode()

    return "".join("".join(map(escape, label)) + "\n" for label in classes).encode()
