"""Stage one: extract features from pictures into a feature store."""

import base  # noqa: F401  # Imported first, so that a command handles signals from its start.
