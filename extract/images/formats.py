"""Picture formats that need a further package, or a build of Pillow that has them: AVIF, HEIC and JPEG XL.

Their files are recognized by the first bytes or the extension, without importing a decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

_EXTRA = '`pip install "headstart[heic]"` or `make heic`'
_JPEG_XL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
"""First bytes without and with a container (ISO/IEC 18181-2)."""
_SHARED_BRANDS = frozenset([b"mif1", b"mif2", b"mif3", b"msf1"])
"""Brands of AVIF and HEIC files (ISO/IEC 23008-12)."""
_MAX_BRANDS = 64


@dataclass(frozen=True)
class PluginFormat:
    """Format of pictures that not every installation decodes."""

    name: str
    module: str
    """Module that decodes it."""
    extensions: tuple[str, ...]
    install: str = _EXTRA
    """Command that installs the module."""
    brands: frozenset[bytes] = frozenset()
    """Brands of files in the ISO base media format."""

    @property
    def is_installed(self) -> bool:
        """Whether this installation decodes the format; the module is searched for, but not imported."""
        return find_spec(self.module) is not None

    @property
    def missing_reason(self) -> str:
        """Reason for not using a picture if the module is not installed, a noun phrase."""
        return f"a picture in the format {self.name}, for which no decoder is installed: run {self.install}"


AVIF = PluginFormat(
    "AVIF",
    "PIL._avif",
    (".avif", ".avifs"),
    # Pillow's own wheels have it.
    "`pip install --force-reinstall pillow`",
    frozenset([b"avif", b"avis"]),
)
HEIC = PluginFormat(
    "HEIC",
    "pillow_heif",
    (".heic", ".heif", ".hif"),
    brands=frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"]),
)
JPEG_XL = PluginFormat("JPEG XL", "pillow_jxl", (".jxl",))
PLUGIN_FORMATS = (AVIF, HEIC, JPEG_XL)
FORMAT_BY_EXTENSION = {extension: each for each in PLUGIN_FORMATS for extension in each.extensions}
"""Format of each extension, which is in lower case."""


def recognize_format(data: bytes) -> PluginFormat | None:
    """Return the format of a file by its first bytes; None if it is none of `PLUGIN_FORMATS`."""
    if data.startswith(_JPEG_XL_STARTS):
        return JPEG_XL
    if data[4:8] != b"ftyp":
        return None
    # The major brand, its version, and the compatible brands (ISO/IEC 14496-12, section 4.3).
    end = min(int.from_bytes(data[:4]), 16 + 4 * _MAX_BRANDS, len(data))
    major = data[8:12]
    brands = {major, *(data[start : start + 4] for start in range(16, end, 4))}
    for each in (AVIF, HEIC):
        if each.brands & brands:
            return each
    return HEIC if major in _SHARED_BRANDS else None
