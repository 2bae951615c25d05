"""Decode policy: the rules by which picture files become pixels, as recorded in stores and exported models."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_BITS = (8, 10, 12, 14, 16)
"""Possible numbers of significant bits of 16-bit samples."""


@dataclass(frozen=True)
class DecodePolicy:
    """Rules by which picture files become pixels. The text of a policy is part of the fingerprint and of the card."""

    sample_bits: int = 16
    """Significant bits of 16-bit samples; each sample is shifted right until 8 bits are left."""
    edition: int = 2
    """1 keeps the faults of the first edition, for stores and models made with it (docs/decisions/0021)."""

    def __str__(self) -> str:
        """Return the recorded text."""
        if self.edition == 1:
            return "pillow-rgb-1: EXIF orientation, first frame, alpha over white, 16 bit by its upper byte"
        alpha = "alpha over white unless 0 everywhere"
        return f"pillow-rgb-2: EXIF orientation, first frame, {alpha}, {self.sample_bits} significant bits of 16"


_POLICIES = {str(policy): policy for policy in (DecodePolicy(edition=1), *map(DecodePolicy, SAMPLE_BITS))}


def find_policy(text: str) -> DecodePolicy | None:
    """Return the policy with the given text; None for the text of a later or foreign version."""
    return _POLICIES.get(text)
