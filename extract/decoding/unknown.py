"""Descriptions of files that are not pictures in a supported format, or cannot be decoded."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from base.terminal import format_count, format_list

_DAMAGED_HEADERS = (
    (rb"\xff\xd8", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"GIF8", "GIF"),
    (rb"BM", "BMP"),
    (rb"RIFF.{4}WEBP", "WebP"),
    (rb"P[1-6]\s", "PPM"),
)
_POINTERS = (
    (rb"version https://git-lfs\.github\.com/", "a Git LFS pointer in place of the file: run `git lfs pull`"),
    (rb"(\.\./)*(\.git)?/annex/objects/", "a git-annex pointer in place of the file: run `git annex get`"),
)
_KINDS = (
    (rb"%PDF", "a PDF file"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file"),
    (rb"PK\x03\x04", "a zip file"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed archive"),
    (rb".{257}ustar", "a tar archive"),
    (rb"8BPS", "a Photoshop file"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (rb".{4}(ftyp|moov|mdat|wide|free|skip)|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]|FLV\x01", "a video"),
    (rb"0&\xb2u\x8ef\xcf\x11", "a video"),
    (rb"\0\0[\x01\x02]\0[\x01-\xff]\0", "an icon or cursor"),
    (rb"DDS ", "a DDS picture"),
    (rb"qoif", "a QOI picture"),
    (rb"#\?RADIANCE|#\?RGBE", "a Radiance HDR picture"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (rb"II\xbc", "a JPEG XR picture"),
    (rb"SIMPLE  =", "a FITS file"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"\x89HDF\r\n", "an HDF5 file"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\xd0\xcf\x11\xe0", "a Microsoft Office file"),
)
_PAGE = rb"(\xef\xbb\xbf)?\s*<(!|html|\?xml|head|svg)"
_JSON = rb"(\xef\xbb\xbf)?\s*(\{\s*[\"}]|\[\s*[\[\]{\"\d-])"
_TEXT = rb"(\xef\xbb\xbf)?([\t\n\r\x20-\x7e]|[\xc2-\xf4][\x80-\xbf]+)+[\xc2-\xf4]?\Z"
_NUM_BYTES = 512
"""Number of bytes by which a text is recognized."""
_UNSUPPORTED_LAYOUT = ("unknown pixel mode", "unknown data organization", "Invalid value for samples per pixel")
"""Messages of Pillow for TIFF files whose bands or bits it does not support."""
_BIG_TIFF = (b"II+\0", b"MM\0+")
_TIFF = (b"II*\0", b"MM\0*", *_BIG_TIFF)
_BAND_TAG, _BITS_TAG, _COMPRESSION_TAG, _COLOUR_TAG, _FORMAT_TAG = 277, 258, 259, 262, 339
_SAMPLE_FORMATS = {1: "", 2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}
_COMPRESSIONS = {1: "uncompressed", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "old JPEG", 7: "JPEG"}
_COMPRESSIONS |= {8: "Deflate", 32773: "PackBits", 32946: "Deflate", 34712: "JPEG 2000", 34887: "LERC"}
_COMPRESSIONS |= {34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}
_COLOURS = {0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
_COLOURS |= {32803: "colour filter array", 34892: "linear raw"}
"""Values of the tags SampleFormat, PhotometricInterpretation and Compression (TIFF 6.0; libtiff's tiff.h)."""


def describe_unknown_file(data: bytes, formats: Sequence[str]) -> str:
    """Describe a file that Pillow does not identify, by its first bytes; `formats` are the supported formats."""
    for pattern, pointer in _POINTERS:
        if re.match(pattern, data):
            return pointer
    if data[:4] in _TIFF:
        return _describe_tiff(data, _find_problem(data))
    if (bits := _read_jpeg_bits(data)) not in (0, 8):
        return f"a JPEG file with samples of {bits} bits, of which only those with 8 are supported"
    for pattern, name in _DAMAGED_HEADERS:
        if re.match(pattern, data, re.DOTALL):
            return f"a {name} file with a damaged header"
    kinds = [kind for pattern, kind in _KINDS if re.match(pattern, data, re.DOTALL)]
    found = kinds[0] if kinds else _describe_text(data[:_NUM_BYTES])
    return f"{found} (supported: {', '.join(formats)})"


def describe_damage(data: bytes, error: Exception, file: str = "file") -> str:
    """Describe a picture that is identified, but cannot be decoded; `file` is a noun with the format."""
    problem = " ".join(str(error).split()) or type(error).__name__
    if data[:4] in _TIFF and "truncated" not in problem:
        # An unknown compression is a KeyError with its number.
        return _describe_tiff(data, "" if isinstance(error, KeyError) else problem)
    if re.search("unsupported|not supported|not implemented|unknown", problem, re.IGNORECASE):
        return f"a picture that Pillow cannot decode ({problem})"
    return f"a damaged {file} ({problem})"


def _read_jpeg_bits(data: bytes) -> int:
    """Return the bits of a sample by the frame header of a JPEG file (T.81, B.2.2); 0 if there is none."""
    start = 2 if data.startswith(b"\xff\xd8") else len(data)
    while data[start : start + 1] == b"\xff" and start + 5 <= len(data):
        if re.match(rb"[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]", data[start + 1 : start + 2]):
            return data[start + 4]
        start += 2 + int.from_bytes(data[start + 2 : start + 4])
    return 0


def _describe_text(start: bytes) -> str:
    if re.match(_PAGE, start, re.IGNORECASE):
        return "a web page or XML file"
    if not re.match(_TEXT, start):
        return "an unknown format"
    return "a JSON file" if re.match(_JSON, start) else "a text file"


def _find_problem(data: bytes) -> str:
    """Return the reason why Pillow does not identify a TIFF file; empty if its layout is unsupported."""
    try:
        TiffImageFile(io.BytesIO(data))
    except Exception as error:
        problem = str(error) or type(error).__name__
        return "" if problem in _UNSUPPORTED_LAYOUT else problem
    return ""


def _describe_tiff(data: bytes, problem: str) -> str:
    """Describe a TIFF file with its layout, and the problem unless it is the layout itself."""
    layout = _describe_layout(data)
    if not layout:
        return "a TIFF file with a damaged header"
    return (
        f"an unsupported or damaged TIFF file ({layout}: {problem})"
        if problem
        else f"an unsupported TIFF file ({layout})"
    )


def _describe_layout(data: bytes) -> str:
    """Describe bands, bits, colours and compression of a TIFF; return an empty text if its header is damaged."""
    try:
        tags = ImageFileDirectory_v2(data[: 16 if data[:4] in _BIG_TIFF else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, formats = tags.get(_BITS_TAG, (1,)), tags.get(_FORMAT_TAG, (1,))
        num_bands, compression = tags.get(_BAND_TAG, len(bits)), tags.get(_COMPRESSION_TAG, 1)
        widths = format_list([str(width) for width in dict.fromkeys(bits)], "/")
        kind, colours = _SAMPLE_FORMATS.get(formats[0], ""), tags[_COLOUR_TAG]
        return (
            f"{format_count(num_bands, 'band')} of {widths} {kind}bits, {_COLOURS.get(colours, f'colours {colours}')}, "
            f"{_COMPRESSIONS.get(compression, f'compression {compression}')}"
        )
    except Exception:
        # Pillow raises many kinds of errors for damaged tags.
        return ""
