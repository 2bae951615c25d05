"""Errors that a user can act on, all in one form: where, what was expected, what was found, what to do."""

from __future__ import annotations

import errno
import os
import shutil

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class HeadstartError(Exception):
    """An error that the user can fix; a command prints it without a traceback and exits with its status."""

    exit_status = 1

    def __init__(self, where: object, expected: str, got: str, advice: str) -> None:
        """Create the error.

        Args:
            where: the file, folder, option or field that is wrong.
            expected: what should have been there.
            got: what is there.
            advice: what the user can do now, a sentence without its full stop.
        """
        # All four are arguments, so that the error passes between processes.
        super().__init__(where, expected, got, advice)
        self.where, self.expected, self.got, self.advice = where, expected, got, advice

    def __str__(self) -> str:
        """Return the error in one sentence, and the advice in another."""
        return f"{self.where}: expected {self.expected}, got {self.got}. {self.advice}."


class HeadstartWarning(UserWarning):
    """Something that does not stop the work, but changes what its result means; issued by the Python API."""


class UsageError(HeadstartError):
    """Invalid argument, detected before any work starts."""

    exit_status = 2


class TargetLockedError(HeadstartError):
    """Another command is writing to the same folder or file."""


class FeatureStoreError(HeadstartError):
    """Base of everything that is wrong with a store."""


class StoreMissingError(FeatureStoreError):
    """There is no store at that path, or something that is not a store."""


class CatalogDamagedError(FeatureStoreError):
    """The catalog cannot be read, or does not hold what was written to it."""


class StoreLockedError(FeatureStoreError):
    """Another process is writing to the store."""


class FingerprintMismatchError(FeatureStoreError):
    """The store's features were made in another way than the ones asked for."""


class ShardDamagedError(FeatureStoreError):
    """A shard is missing, or does not hold what the catalog says."""


class StoreWriteError(FeatureStoreError):
    """The disk refused a write; what was committed before it is safe."""


def describe_os_error(error: OSError, place: str) -> str:
    """Return the message for an error of the operating system.

    Args:
        error: the error; one of `shutil` holds a list of others.
        place: the files or folders that it may be about, where it names none.
    """
    where, got, more = error.filename or place, error.strerror or str(error), ""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        (where, _, got), num_more = error.args[0][0], len(error.args[0]) - 1
        more = f" and {num_more:,} more" if num_more else ""
    if error.errno in _FULL or any(text in str(got) for text in map(os.strerror, _FULL)):
        return f"{where}{more}: expected room on the disk, got {got}. Make room, and run it again."
    return f"{where}{more}: expected a file that can be used, got {got}. Check that it exists, and who may use it."
