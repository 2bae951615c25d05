"""Stage one: images in, features out."""

import base  # noqa: F401  # A command handles signals from here on.
