"""Checks of the installation and of the computer, as a report without personal data: `headstart doctor`."""
