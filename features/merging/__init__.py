"""Merge the stores of the parts of a folder into one store."""
