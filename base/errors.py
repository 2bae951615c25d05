"""Errors that a user can act on: where, what was expected, what was found, what to do."""

from __future__ import annotations

import errno
import os
import shutil
from importlib.util import find_spec

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class HeadstartError(Exception):
    """Error that the user can fix; a command prints it without a traceback and exits with `exit_status`."""

    exit_status = 1

    def __init__(self, where: object, expected: str, got: str, advice: str) -> None:
        """Create the error.

        Args:
            where: the file, folder, option or field that is wrong.
            expected: description of a valid value.
            got: description of the value found.
            advice: what to do now, a sentence without its full stop.
        """
        # All four are arguments, so that the error passes between processes.
        super().__init__(where, expected, got, advice)
        self.where, self.expected, self.got, self.advice = where, expected, got, advice

    def __str__(self) -> str:
        """Return the error as one line: where, expected, got, advice."""
        return f"{self.where}: expected {self.expected}, got {self.got}. {self.advice}."


class HeadstartWarning(UserWarning):
    """Something that does not stop the work, but changes what its result means; issued by the Python API."""


class UsageError(HeadstartError):
    """Invalid argument, detected before any work starts."""

    exit_status = 2


class TargetLockedError(HeadstartError):
    """Another command is writing to the same folder or file."""


class FeatureStoreError(HeadstartError):
    """Base class of errors about a store."""


class StoreMissingError(FeatureStoreError):
    """No store at a path, or something else there."""


class CatalogDamagedError(FeatureStoreError):
    """Unreadable catalog, or one whose checksums do not match."""


class StoreLockedError(FeatureStoreError):
    """Another process is writing to the store."""


class FingerprintMismatchError(FeatureStoreError):
    """The features of the store were computed in another way than the requested ones."""


class ShardDamagedError(FeatureStoreError):
    """Missing shard, or one whose bytes are not those that were committed."""


class StoreWriteError(FeatureStoreError):
    """The disk refused a write; what was committed before is safe."""


def require_extra(package: str, option: str, target: str) -> None:
    """Raise UsageError where an option's package is not installed; the extra and the `make` target install it."""
    if find_spec(package) is None:
        advice = f"Run `pip install 'headstart[{package}]'`, or `make {target}`, which installs it"
        raise UsageError(option, f"the package {package}", "none installed", advice)


def convert_os_error(error: OSError, place: str) -> HeadstartError:
    """Return the HeadstartError for an error of the operating system, with a place where it names no file."""
    where, got, more = error.filename or place, error.strerror or str(error), ""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        (where, _, got), num_more = error.args[0][0], len(error.args[0]) - 1
        more = f" and {num_more:,} more" if num_more else ""
    if error.errno in _FULL or any(text in str(got) for text in map(os.strerror, _FULL)):
        return HeadstartError(f"{where}{more}", "free space on the disk", str(got), "Free some space, and try again")
    advice = "Check that it exists, and that its permissions allow access"
    return HeadstartError(f"{where}{more}", "a usable file or folder", str(got), advice)
