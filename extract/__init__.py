"""Stage one: images in, features out."""

import features  # noqa: F401  # A command handles signals from here on.
