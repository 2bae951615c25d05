"""Removal of metadata that would make a sound picture undecodable."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Ancillary chunks that decoding needs: transparency and animation (PNG, third edition, section 11.3)."""
_ORIENTATION_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Keywords of the texts in which Pillow looks for the EXIF orientation."""
_MAX_TEXT_BYTES = 2**20
"""Largest text that Pillow reads."""


def drop_metadata(data: bytes) -> bytes | None:
    """Return a PNG file without the metadata that decoding does not use, such as texts and colour profiles.

    Pillow refuses a whole picture for one text or profile that is damaged or has more than 1 MiB.

    Returns:
        The shorter file; None if there is nothing to drop, or if the file is not a PNG.
    """
    if not data.startswith(_PNG_SIGNATURE):
        return None
    reduced = _PNG_SIGNATURE + b"".join(chunk for chunk in _split_chunks(data) if _is_needed(chunk))
    return reduced if len(reduced) < len(data) else None


def _split_chunks(data: bytes) -> Iterator[memoryview]:
    """Yield the chunks of a PNG, each with its length, type and checksum; the last may be truncated."""
    view, start = memoryview(data), len(_PNG_SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        yield view[start:end]
        start = end


def _is_needed(chunk: memoryview) -> bool:
    """Return whether a chunk may change the pixels or the orientation."""
    kind, content = bytes(chunk[4:8]), chunk[8:-4]
    is_ancillary = kind.isalpha() and kind[:1].islower()
    if not is_ancillary or kind in _PIXEL_CHUNKS:
        return True
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        return bytes(content[:32]).startswith(_ORIENTATION_KEYWORDS) and _is_short(kind, bytes(content))
    return kind == b"eXIf"


def _is_short(kind: bytes, content: bytes) -> bool:
    """Return whether Pillow reads a text: it is sound, and neither it nor its uncompressed form is too long."""
    _, _, text = content.partition(b"\0")
    is_compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if len(text) > _MAX_TEXT_BYTES or not is_compressed:
        return len(text) <= _MAX_TEXT_BYTES
    packed = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1]
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(packed, _MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return not decompressor.unconsumed_tail
