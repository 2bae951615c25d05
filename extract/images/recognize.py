"""Recognize pictures, files of operating systems and editors, and folders that Headstart wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from base.errors import CatalogDamagedError, HeadstartError
from base.lock import LOCK_NAME
from base.terminal import format_count, format_list
from extract.images.formats import FORMAT_BY_EXTENSION, PLUGIN_FORMATS
from features.catalog.catalog import CATALOG_NAME
from features.catalog.database import check_header

EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"]
    + [".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"]
)
"""Extensions of the pictures that every installation decodes, in lower case."""
UNSUPPORTED = "a picture in an unsupported format"
_UNSUPPORTED_EXTENSIONS = frozenset(
    [".jp2", ".j2k", ".svg", ".ico", ".psd", ".tga", ".hdr", ".exr", ".dcm"]
    + [".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw"]
)
_SYSTEM_NAMES = frozenset(
    # macOS
    [".ds_store", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd", ".temporaryitems", "__macosx", "icon\r"]
    # Windows
    + ["thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"]
    # Linux desktops and file systems
    + ["lost+found", ".directory", ".thumbnails", ".snapshot", ".zfs"]
    # Synology and QNAP
    + ["@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb"]
    # editors and version control
    + [".git", ".svn", ".hg", ".dvc", ".idea", ".vscode", ".ipynb_checkpoints", "__pycache__"]
)
"""Names of files and folders that operating systems, network storage and editors create, in lower case."""
APPLE_DOUBLE, TRASH = "._*", ".Trash-*"
HEADSTART = "a Headstart"
"""First words of the reason for skipping a folder that Headstart wrote."""
HEADSTART_STORE = f"{HEADSTART} feature store"
_RUN_FILES = ("run.json", "head.npz")
SORTED_FILE = "headstart-sorted.json"
"""Name of the file that marks a folder of links to classified pictures."""


def name_system_entry(name: str) -> str:
    """Return the name under which a file or folder of an operating system is counted; empty for any other entry."""
    if name.lower() in _SYSTEM_NAMES:
        return name
    return APPLE_DOUBLE if name.startswith("._") else TRASH if name.startswith(".Trash-") else ""


def find_extension(name: str) -> str:
    """Return the extension of a file name, with its dot; empty if it has none."""
    stem, dot, extension = name.rpartition(".")
    return dot + extension if stem.strip(".") and extension else ""


def list_extensions() -> frozenset[str]:
    """Return the extensions of the pictures that this installation decodes, in lower case."""
    return EXTENSIONS.union(*(each.extensions for each in PLUGIN_FORMATS if each.is_installed))


def explain_extension(path: str) -> str:
    """Return the reason for skipping a file whose extension is not in `list_extensions`."""
    extension = find_extension(path.rpartition("/")[2])
    if each := FORMAT_BY_EXTENSION.get(extension.lower()):
        return each.missing_reason
    if extension.lower() in _UNSUPPORTED_EXTENSIONS:
        return f"{UNSUPPORTED} ({extension})"
    return f"a file with an unknown extension ({extension})" if extension else "a file without an extension"


def describe_unsupported(files: Iterable[tuple[str, str]]) -> list[str]:
    """Return warnings about skipped pictures in unsupported formats, one for each advice.

    Args:
        files: (path, reason) of skipped files.
    """
    by_advice: dict[str, list[tuple[str, str]]] = {}
    missing = {each.missing_reason: each for each in PLUGIN_FORMATS}
    for path, reason in files:
        if each := missing.get(reason):
            by_advice.setdefault(f"Run {each.install}", []).append((each.name, path))
        elif reason.startswith(UNSUPPORTED):
            by_advice.setdefault("Convert to JPEG or PNG", []).append(("unsupported formats", path))
    warnings = []
    for advice, found in by_advice.items():
        names = format_list([*dict.fromkeys(name for name, _ in found)], " and ")
        warnings.append(f"skipped {format_count(len(found), 'picture')} in {names}, first {found[0][1]}. {advice}")
    return warnings


def list_decodable(paths: Iterable[str]) -> list[str]:
    """Return the pictures without those whose extension is of a format that this installation does not decode."""
    missing = {extension for extension, each in FORMAT_BY_EXTENSION.items() if not each.is_installed}
    return [path for path in paths if find_extension(path).lower() not in missing]


def describe_undecodable(paths: Iterable[str]) -> list[str]:
    """Return warnings about pictures of a store that this installation does not decode, one for each format."""
    by_format = Counter(FORMAT_BY_EXTENSION.get(find_extension(path).lower()) for path in paths)
    return [
        f"kept the features of {format_count(count, 'picture')} in {each.name}, for which no decoder is installed. "
        f"Run {each.install} to read them again"
        for each, count in by_format.items()
        if each and not each.is_installed
    ]


def identify_headstart_folder(folder: Path, names: Collection[str]) -> str:
    """Describe a folder that Headstart wrote, recognized by its content; return an empty string for any other folder.

    Args:
        folder: path of the folder.
        names: names of its entries.
    """

    def holds(*files: str, within: Path = folder) -> bool:
        return all((within / name).is_file() for name in files)

    if CATALOG_NAME in names and _is_catalog(folder / CATALOG_NAME, is_begun=LOCK_NAME in names):
        return HEADSTART_STORE
    if "run.json" in names and holds(*_RUN_FILES):
        return f"{HEADSTART} run"
    if "model.keras" in names and holds("model.keras", "labels.txt"):
        return f"{HEADSTART} exported model"
    if "sweep.csv" in names and (folder / "trials").is_dir():
        return f"{HEADSTART} sweep"
    if SORTED_FILE in names and holds(SORTED_FILE):
        return f"{HEADSTART} folder of sorted pictures"
    if "compare.png" in names:
        runs = [folder / name for name in names if (folder / name).is_dir()]
        if runs and all(holds(*_RUN_FILES, within=run) for run in runs):
            return f"{HEADSTART} comparison"
    return ""


def _is_catalog(path: Path, *, is_begun: bool) -> bool:
    """Return whether a file has a catalog's header, or is empty beside a lock (`is_begun`), as after a killed run."""
    try:
        check_header(path)
    except CatalogDamagedError:
        return is_begun and path.stat().st_size == 0
    except HeadstartError:
        return False
    return True
