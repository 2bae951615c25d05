"""Headers of JPEG XL files, to make pictures of kinds that the encoder does not write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Field = tuple[int, int]
"""A value and its number of bits."""

ALPHA: Sequence[Field] = [(1, 1)]
PREMULTIPLIED: Sequence[Field] = [(0, 1), (0, 2), (0, 3), (0, 2), (0, 2), (1, 1)]
BLACK: Sequence[Field] = [(0, 1), (2, 2), (2, 4), (0, 3), (0, 2), (0, 2)]
ANIMATION: Sequence[Field] = [(0, 2), (0, 2), (0, 2), (0, 1)]


@dataclass(frozen=True)
class JpegXlFields:
    """Header of a codestream whose colours are sRGB, and not transformed (ISO/IEC 18181-1, annex D)."""

    size: tuple[int, int]
    orientation: int = 1
    animation: Sequence[Field] = ()
    is_float: bool = False
    channel: Sequence[Field] = ()
    """Alpha, or another channel besides the colours."""

    def pack(self) -> bytes:
        """Return the header, filled with zeros to a whole byte."""
        has_extra = bool(self.orientation > 1 or self.animation)
        width, height = self.size
        fields: list[Field] = [(0x0AFF, 16), (0, 1), (0, 2), (height - 1, 9)]
        fields += [(3, 3)] if width * 3 == height * 4 else [(0, 3), (0, 2), (width - 1, 9)]
        fields += [(0, 1), (has_extra, 1)]
        if has_extra:
            fields += [(self.orientation - 1, 3), (0, 1), (0, 1), (bool(self.animation), 1), *self.animation]
        fields += [(1, 1), (0, 2), (7, 4)] if self.is_float else [(0, 1), (0, 2)]
        fields += [(1, 1), (bool(self.channel), 2), *self.channel]
        # Not XYB, sRGB, the default tone mapping, no extensions, the default transformation.
        fields += [(0, 1), (1, 1), *([(1, 1)] if has_extra else []), (0, 2), (1, 1)]
        value = num_bits = 0
        for number, length in fields:
            value |= int(number) << num_bits
            num_bits += length
        return value.to_bytes(-(-num_bits // 8), "little")


def change_header(data: bytes, before: JpegXlFields, after: JpegXlFields) -> bytes:
    """Replace the header of a file; its frame stays the same."""
    assert data.startswith(before.pack())
    return after.pack() + data[len(before.pack()) :]
