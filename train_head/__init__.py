"""Stage two: features in, a fitted head and an exported model out."""

import base  # noqa: F401  # A command handles signals from here on.
