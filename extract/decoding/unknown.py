"""Descriptions of files that are not pictures in a supported format."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OTHER_KINDS = (
    (rb"%PDF", "a PDF file"),
    (rb"PK\x03\x04", "a zip file"),
    (rb"8BPS", "a Photoshop file"),
    (rb"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (rb".{4}ftyp(hei[cxms]|hev[cx]|m[is]f1)", "an HEIC picture"),
    (rb".{4}ftypavi[fs]", "an AVIF picture"),
    (rb".{4}(ftyp|moov|mdat|wide|free|skip)|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]|FLV\x01", "a video"),
    (rb"0&\xb2u\x8ef\xcf\x11", "a video"),
)


def describe_unknown_file(data: bytes, formats: Sequence[str]) -> str:
    """Describe a file that Pillow does not identify, by its first bytes; `formats` are the supported formats."""
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!|html|\?xml|head|svg)", data[:512], re.IGNORECASE):
        return "a web page or XML file"
    kinds = [kind for pattern, kind in _OTHER_KINDS if re.match(pattern, data, re.DOTALL)]
    found = kinds[0] if kinds else "an unknown format or a damaged header"
    return f"{found} (supported: {', '.join(formats)})"
