"""Engines: how the backbone is run."""
