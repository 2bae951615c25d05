"""What an exported model says of itself: its card, kept inside model.keras, and labels.txt beside it."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from extract.backbone import MAX_IMAGE_SIZE
from train_head.config import NOTHING

MODEL_FILE, LABELS_FILE = "model.keras", "labels.txt"
CARD_NAME = "headstart.json"
"""Name of the card inside `model.keras` (a zip file); Keras does not read it."""


@dataclass(frozen=True)
class ModelCard:
    """Description of an exported model, kept inside it."""

    classes: list[str]
    image_size: int
    decode_policy: str
    cut: str
    weights: str
    """Name of the backbone's weights; of a file, without its folder."""
    fingerprint: str
    val_accuracy: float
    unfreeze_from: str = NOTHING
    """The first layer of the backbone that was trained again."""
    weights_sha256: str = ""
    """SHA-256 of the backbone's weights up to the cut, as loaded; empty in older exports."""
    run: str = ""
    """SHA-256 of the head of the run that was exported; empty in older exports."""
    digest: str = ""
    """SHA-256 of the card and of the other members; empty in older exports."""

    def check(self) -> None:
        """Raise ValueError where a value cannot be an export's."""
        classes = self.classes
        if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(label, str) for label in classes):
            raise ValueError("a card without two class names")
        if len(set(classes)) < len(classes):
            raise ValueError("a card with the same class name twice")
        if type(self.image_size) is not int or not 0 < self.image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"a card with pictures of {self.image_size!r} px")
        if type(self.val_accuracy) not in (int, float) or not 0 <= self.val_accuracy <= 1:
            raise ValueError(f"a card with an accuracy of {self.val_accuracy!r}")
        if not all(isinstance(value, str) for name, value in vars(self).items() if name not in _NO_TEXTS):
            raise ValueError("a card with values of other types")


_NO_TEXTS = ("classes", "image_size", "val_accuracy")


def format_labels(classes: Sequence[str]) -> bytes:
    r"""Format labels.txt: one class name a line, in the order of the model's outputs.

    A backslash becomes two. A control character, one that ends a line, and a byte of a folder's name that is not UTF-8
    become what Python writes for them: `\n`, `\x85`, `\u2028`, `\udce9`.
    """
    return "".join(f"{escape_label(label)}\n" for label in classes).encode()


def escape_label(label: str) -> str:
    """Escape a class name for labels.txt."""

    def is_escaped(char: str) -> bool:
        return char == "\\" or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")

    return "".join(char.encode("unicode_escape").decode() if is_escaped(char) else char for char in label)


def compute_digest(card: ModelCard, members: Mapping[str, bytes]) -> str:
    """Compute an export's digest: SHA-256 over its members and its card.

    Args:
        card: the card; its own digest does not count.
        members: the bytes of each other member, by name.
    """
    digest = hashlib.sha256(json.dumps(asdict(replace(card, digest="")), sort_keys=True).encode())
    for name in sorted(members):
        digest.update(f"\n{name} {len(members[name])}\n".encode())
        digest.update(members[name])
    return digest.hexdigest()
