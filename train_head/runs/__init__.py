"""Runs: directories with one fitted head each: written, read, compared and listed."""
