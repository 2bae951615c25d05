"""Errors that the user can fix; each has the fields where, expected, got and advice."""

from __future__ import annotations

import errno
import linecache
import os
import shutil
import traceback
from importlib.util import find_spec

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MAIN = "__main__"
"""Module of a notebook's cells."""


class HeadstartError(Exception):
    """Error that the user can fix; a command prints it without a traceback and exits with `exit_status`."""

    exit_status = 1

    def __init__(self, where: object, expected: str, got: str, advice: str) -> None:
        """Create the error.

        Args:
            where: the file, folder, option or field with the wrong value.
            expected: noun phrase for a valid value.
            got: noun phrase for the value found.
            advice: imperative sentence without its full stop, or a question.
        """
        # Pickle recreates the error from these arguments.
        super().__init__(where, expected, got, advice)
        self.where, self.expected, self.got, self.advice = where, expected, got, advice

    def __str__(self) -> str:
        """Return the error as one line."""
        end = "" if self.advice.endswith("?") else "."
        return f"{self.where}: expected {self.expected}, got {self.got}. {self.advice}{end}"

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of the traceback: the class, the message and the line of the notebook."""
        frames = traceback.walk_tb(self.__traceback__)
        lines = [
            (frame.f_code.co_filename, number) for frame, number in frames if frame.f_globals.get("__name__") == _MAIN
        ]
        shown = [f"line {number}: {linecache.getline(file, number).strip()}" for file, number in lines[-1:]]
        return [*shown, f"{type(self).__name__}: {self}"]


class HeadstartWarning(UserWarning):
    """Warning of the Python API: the work continues, but its result may be incomplete."""


class UsageError(HeadstartError):
    """Invalid argument, detected before any work starts."""

    exit_status = 2


class TargetLockedError(HeadstartError):
    """Target that another command is writing."""


class NoLocksError(HeadstartError):
    """Folder on a file system without locks, where two commands could write at the same time."""


class FeatureStoreError(HeadstartError):
    """Base class of errors about a feature store."""


class StoreMissingError(FeatureStoreError):
    """Path that does not exist or does not contain a feature store."""


class CatalogDamagedError(FeatureStoreError):
    """Catalog that cannot be read or fails its checksums."""


class StoreLockedError(FeatureStoreError):
    """Store that another process is writing."""


class FingerprintMismatchError(FeatureStoreError):
    """Store whose features were computed with settings other than the requested ones."""


class ShardDamagedError(FeatureStoreError):
    """Shard that is missing or differs from the committed bytes."""


class StoreWriteError(FeatureStoreError):
    """Failed write to a store; everything committed earlier is intact."""


def require_extra(package: str, option: str, target: str = "", extra: str = "") -> None:
    """Raise UsageError if a package that an option needs is not installed; the advice has the install command.

    Args:
        package: name of the package, as it is imported.
        option: the option that needs it, for the message.
        target: target and variables of make that install it, if any.
        extra: name of Headstart's extra; by default that of the package.
    """
    if find_spec(package) is None:
        raise build_package_error(option, f"the package {package}", extra or package, target)


def build_package_error(option: str, packages: str, extras: str, target: str = "") -> UsageError:
    """Create the error of missing packages; the advice has the command that installs the extras, joined by commas."""
    advice = f'Run `pip install "headstart[{extras}]"`' + (f" or `make {target}`" if target else "")
    return UsageError(option, packages, f"an environment without {'them' if ',' in packages else 'it'}", advice)


def convert_os_error(error: OSError, place: str) -> HeadstartError:
    """Convert an error of the operating system; `place` replaces the file name if the error has none."""
    where, got, more = error.filename or place, error.strerror or str(error), ""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        (where, _, got), num_more = error.args[0][0], len(error.args[0]) - 1
        more = f" and {num_more:,} more" if num_more else ""
    if error.errno in _FULL or any(text in str(got) for text in map(os.strerror, _FULL)):
        return HeadstartError(f"{where}{more}", "free space on the disk", str(got), "Free some space and try again")
    advice = "Check that it exists and that its permissions allow access"
    return HeadstartError(f"{where}{more}", "an accessible file or folder", str(got), advice)
