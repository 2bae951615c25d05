"""Stage two: from stored features to a fitted head and an exported model."""

import base  # noqa: F401  # Signal handlers must be in place before the slower imports.
